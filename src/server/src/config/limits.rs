//! The `[limits]` section.

use super::{
    option::section,
    value::{ByteSize, Interval, Period, Rate},
};

section! {
    /// How much one client may ask of the server.
    Limits = "limits" {
        /// Largest body of an ordinary request.
        body: ByteSize = ByteSize::mib(1), Reloaded;
        /// Largest body where clients send many keys or messages to devices at once.
        body_of_keys: ByteSize = ByteSize::mib(13), Reloaded;
        /// How long a client may take to send the headers of a request.
        header_time: Interval = Interval::seconds(10);
        /// How long a request may take, waiting for news apart.
        request_time: Interval = Interval::seconds(60), Reloaded;
        /// Open connections from one address.
        connections_per_address: u32 = 256, Reloaded;
        /// Whether the rates below are applied at all.
        rates: bool = true, Reloaded;
        /// Requests of one user, where they cost something: sending, joining, creating rooms and so on.
        requests: Rate = Rate::new(20, Period::Second, 100), Reloaded;
        /// The same from one address without an account.
        requests_without_account: Rate = Rate::new(20, Period::Second, 100), Reloaded;
        /// Requests of one other server.
        requests_of_server: Rate = Rate::new(50, Period::Second, 500), Reloaded;
        /// Logins from one address.
        logins: Rate = Rate::new(12, Period::Minute, 10), Reloaded;
        /// Wrong passwords for one account.
        failed_logins: Rate = Rate::new(3, Period::Minute, 5), Reloaded;
        /// Registrations from one address.
        registrations: Rate = Rate::new(3, Period::Minute, 5), Reloaded;
        /// Questions whether a registration token is valid, from one address.
        registration_tokens: Rate = Rate::new(6, Period::Minute, 5), Reloaded;
    }
}

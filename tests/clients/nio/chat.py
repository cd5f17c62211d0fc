"""Two people and a server, through matrix-nio: chat.py PROGRAM.

Prints a line for every step, `ok …` or `FAILED …`. A step builds on those before it, so after a failure the
rest is not tried, and fails.
"""

import asyncio
import logging
import sys
import tempfile
import traceback

import nio
from server import Server

PASSWORD = "the password of a test"
TEXTS = [f"message {number}" for number in range(40)]
# The longest that a sync waits for news, and how often one asks before it gives up.
TIMEOUT_MS = 5000
SYNCS_MAX = 20


def must(answer, kind):
    """The answer, if it is a success."""
    assert isinstance(answer, kind), answer
    return answer


class Chat:
    """What the steps share."""

    def __init__(self, server):
        self.server = server
        self.clients = []
        # Two people who stay signed in, and a second session of the first one.
        self.anna = self.bea = self.anna_again = None
        self.room_id = None
        # The history's texts, the oldest first, as all must see them for ever.
        self.history = []
        self.receipt = None

    def client(self, user):
        config = nio.AsyncClientConfig(encryption_enabled=False, max_timeouts=1, max_limit_exceeded=0)
        client = nio.AsyncClient(self.server.url, user, config=config)
        self.clients.append(client)
        return client

    async def registers(self):
        self.anna, self.bea = self.client("anna"), self.client("bea")
        for client in (self.anna, self.bea):
            answer = must(await client.register(client.user, PASSWORD, "a test"), nio.RegisterResponse)
            assert answer.user_id == f"@{client.user.removesuffix(':localhost').removeprefix('@')}:localhost"
        taken = await self.client("anna").register("anna", PASSWORD)
        assert isinstance(taken, nio.ErrorResponse) and taken.status_code == "M_USER_IN_USE", taken

    async def logs_in(self):
        self.anna_again = self.client("anna")
        wrong = await self.anna_again.login("not this")
        assert isinstance(wrong, nio.LoginError) and wrong.status_code == "M_FORBIDDEN", wrong
        must(await self.anna_again.login(PASSWORD), nio.LoginResponse)
        who = must(await self.anna_again.whoami(), nio.WhoamiResponse)
        assert (who.user_id, who.device_id) == ("@anna:localhost", self.anna_again.device_id)

    async def invites(self):
        answer = await self.anna.room_create(name="A room", topic="Tests", preset=nio.RoomPreset.private_chat)
        self.room_id = must(answer, nio.RoomCreateResponse).room_id
        must(await self.anna.room_invite(self.room_id, self.bea.user_id), nio.RoomInviteResponse)

    async def joins(self):
        must(await self.bea.sync(), nio.SyncResponse)
        invited = self.bea.invited_rooms[self.room_id]
        assert (invited.name, invited.inviter) == ("A room", "@anna:localhost")
        must(await self.bea.join(self.room_id), nio.JoinResponse)
        for client in (self.anna, self.bea):
            await seen(client, self.room_id, lambda room: self.bea.user_id in client.rooms[self.room_id].users)
        room = self.bea.rooms[self.room_id]
        assert (room.name, room.topic, room.member_count) == ("A room", "Tests", 2)

    async def exchanges(self):
        for number, text in enumerate(TEXTS):
            sender, other = (self.anna, self.bea) if number % 2 == 0 else (self.bea, self.anna)
            content = {"msgtype": "m.text", "body": text}
            waiting = asyncio.create_task(seen(other, self.room_id, lambda room: text in texts(room.timeline.events)))
            sent = must(await sender.room_send(self.room_id, "m.room.message", content), nio.RoomSendResponse)
            await waiting
        self.history = await self.read(self.anna)
        assert self.history == TEXTS, self.history
        self.receipt = sent.event_id

    async def read(self, client):
        """The whole history, backwards in small pages from the end of a sync."""
        events, start = [], client.next_batch
        while start is not None:
            page = await client.room_messages(self.room_id, start, direction=nio.MessageDirection.back, limit=7)
            page = must(page, nio.RoomMessagesResponse)
            assert len(page.chunk) <= 7
            events += page.chunk
            start = page.end
        assert len({event.event_id for event in events}) == len(events), "an event is there twice"
        assert isinstance(events[-1], nio.RoomCreateEvent), events[-1]
        return texts(reversed(events))

    async def pages(self):
        for client in (self.bea, self.anna_again):
            must(await client.sync(), nio.SyncResponse)
            assert await self.read(client) == TEXTS
        first = must(await self.bea.room_get_event(self.room_id, self.receipt), nio.RoomGetEventResponse)
        assert first.event.body == TEXTS[-1]
        around = await self.bea.room_context(self.room_id, self.receipt, limit=4)
        assert texts(reversed(must(around, nio.RoomContextResponse).events_before)) == TEXTS[-3:-1]

    async def types(self):
        for typing in (True, False):
            must(await self.bea.room_typing(self.room_id, typing, 20_000), nio.RoomTypingResponse)
            expected = [self.bea.user_id] if typing else []
            await seen(self.anna, self.room_id, lambda room: expected in typists(room.ephemeral))

    async def acknowledges(self):
        answer = await self.bea.update_receipt_marker(self.room_id, self.receipt)
        must(answer, nio.UpdateReceiptMarkerResponse)
        read = (self.bea.user_id, self.receipt)
        await seen(self.anna, self.room_id, lambda room: read in receipts(room.ephemeral))

    async def logs_out(self):
        token = self.anna_again.access_token
        must(await self.anna_again.logout(), nio.LogoutResponse)
        self.anna_again.access_token = token
        refused = await self.anna_again.whoami()
        assert isinstance(refused, nio.WhoamiError) and refused.status_code == "M_UNKNOWN_TOKEN", refused
        must(await self.anna.whoami(), nio.WhoamiResponse)

    async def survives_sigterm(self):
        self.server.stop()
        await self.still_there("after SIGTERM")

    async def survives_sigkill(self):
        self.server.kill()
        await self.still_there("after SIGKILL")

    async def still_there(self, text):
        """Everything is as it was, for who logs in again and for who never logged out; and it goes on."""
        self.server.start()
        for client in (self.anna, self.bea):
            client.homeserver = self.server.url
        again = self.client("bea")
        must(await again.login(PASSWORD), nio.LoginResponse)
        synced = must(await again.sync(full_state=True), nio.SyncResponse)
        room = again.rooms[self.room_id]
        assert (room.name, room.topic, sorted(room.users)) == ("A room", "Tests", ["@anna:localhost", "@bea:localhost"])
        joined = synced.rooms.join[self.room_id]
        assert texts(joined.timeline.events) == self.history[-len(texts(joined.timeline.events)):]
        assert (self.bea.user_id, self.receipt) in receipts(joined.ephemeral)
        assert await self.read(again) == self.history

        # From where Anna was before, there is nothing but what is new.
        content = {"msgtype": "m.text", "body": text}
        must(await again.room_send(self.room_id, "m.room.message", content), nio.RoomSendResponse)
        news = must(await self.anna.sync(TIMEOUT_MS), nio.SyncResponse)
        assert texts(news.rooms.join[self.room_id].timeline.events) == [text]
        self.history.append(text)
        assert await self.read(self.anna) == self.history
        must(await again.logout(), nio.LogoutResponse)

    async def says_goodbye(self):
        for client in (self.anna, self.bea):
            must(await client.logout(), nio.LogoutResponse)

    async def close(self):
        for client in self.clients:
            await client.close()

    def steps(self):
        return [
            ("two people register", self.registers),
            ("one logs in on a second device", self.logs_in),
            ("a room is created, and someone invited", self.invites),
            ("the invitation is seen and accepted", self.joins),
            ("messages are exchanged", self.exchanges),
            ("the history is paged back to its beginning", self.pages),
            ("typing is seen", self.types),
            ("a receipt is seen", self.acknowledges),
            ("a session ends", self.logs_out),
            ("all is there after SIGTERM and a restart", self.survives_sigterm),
            ("all is there after kill -9 and a restart", self.survives_sigkill),
            ("both log out", self.says_goodbye),
        ]


async def seen(client, room_id, wanted):
    """Syncs until the room has what is wanted."""
    for _ in range(SYNCS_MAX):
        answer = must(await client.sync(TIMEOUT_MS), nio.SyncResponse)
        room = answer.rooms.join.get(room_id)
        if room is not None and wanted(room):
            return
    raise AssertionError("what was awaited does not come")


def texts(events):
    return [event.body for event in events if isinstance(event, nio.RoomMessageText)]


def typists(ephemeral):
    return [event.users for event in ephemeral if isinstance(event, nio.TypingNoticeEvent)]


def receipts(ephemeral):
    events = (event for event in ephemeral if isinstance(event, nio.ReceiptEvent))
    return [(receipt.user_id, receipt.event_id) for event in events for receipt in event.receipts]


async def run(program):
    """Takes all steps; returns whether they all went well."""
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        server = Server(program, folder)
        server.start()
        chat = Chat(server)
        for name, step in chat.steps():
            if failed:
                print(f"FAILED nio: {name} (not tried)")
                continue
            try:
                await asyncio.wait_for(step(), 120)
                print(f"ok nio: {name}", flush=True)
            except Exception as error:
                failed = True
                traceback.print_exc()
                print(f"FAILED nio: {name}: {error!r}", flush=True)
        await chat.close()
        server.kill()
    return not failed


if __name__ == "__main__":
    # What matters is asserted; nio also logs every refusal, and some are wanted here.
    logging.disable(logging.ERROR)
    sys.exit(0 if asyncio.run(run(sys.argv[1])) else 1)

"""A bridge made of mautrix, between a room and a network that is a list: relay.py PROGRAM.

Prints a line for every step, `ok …` or `FAILED …`. A step builds on those before it, so after a failure the rest is not
tried, and fails.
"""

import asyncio
import logging
import signal
import sys
import tempfile
import traceback

from mautrix.appservice import AppService
from mautrix.appservice.state_store.asyncpg import PgASStateStore
from mautrix.bridge.e2ee import EncryptionManager
from mautrix.client import Client
from mautrix.client.state_store import MemoryStateStore, MemorySyncStore
from mautrix.crypto import MemoryCryptoStore, OlmMachine, StateStore
from mautrix.errors import MNotFound
from mautrix.types import (
    EncryptionAlgorithm,
    EventType,
    Filter,
    MessageType,
    RoomEncryptionStateEventContent,
    TextMessageEventContent,
)
from mautrix.util.async_db import Database
from server import Server, free_port

AS_TOKEN = "the token of the application service"
HS_TOKEN = "the token of the server"
PREFIX, SUFFIX = "@relay_", ":localhost"
BOT = "@relaybot:localhost"
GHOST = "@relay_carol:localhost"
TIMEOUT = 60


class Bridge:
    """Takes what is said in rooms to the other network, and says in rooms what is said there."""

    name = "relay"
    config = {
        "homeserver.http_retry_count": 0,
        "bridge.encryption.verification_levels": {
            "send": "unverified",
            "share": "unverified",
            "receive": "unverified",
        },
        "bridge.encryption.allow_key_sharing": True,
        # Messages to the device, its keys and changes of others come with transactions.
        "bridge.encryption.appservice": True,
        "bridge.encryption.msc4190": False,
        "bridge.encryption.self_sign": False,
        "bridge.encryption.delete_keys": None,
        "bridge.encryption.rotation.disable_device_change_key_rotation": False,
    }

    def __init__(self, folder, port):
        self.folder, self.port = folder, port
        self.loop = asyncio.get_running_loop()
        self.az = self.e2ee = self.state_store = None
        # What the other network was told, in order.
        self.network = []
        self.typing = []
        self.failures = []

    def register(self):
        """Writes the file by which the server knows it."""
        path = f"{self.folder}/registration.yaml"
        with open(path, "w") as file:
            file.write(
                f"""
id: relay
url: http://127.0.0.1:{self.port}
as_token: {AS_TOKEN}
hs_token: {HS_TOKEN}
sender_localpart: relaybot
rate_limited: false
namespaces:
  users: [{{ exclusive: true, regex: '@relay_.*:localhost' }}]
  aliases: [{{ exclusive: true, regex: '#relay_.*:localhost' }}]
  rooms: []
receive_ephemeral: true
de.sorunome.msc2409.push_ephemeral: true
org.matrix.msc3202: true
"""
            )
        return path

    async def start(self, url):
        path = f"sqlite:{self.folder}/bridge.db"
        self.db = Database.create(path, upgrade_table=PgASStateStore.upgrade_table)
        await self.db.start()
        await self.db.execute("CREATE TABLE IF NOT EXISTS portal (mxid TEXT, encrypted BOOLEAN)")
        self.state_store = PgASStateStore(self.db)
        self.az = AppService(
            url,
            "localhost",
            AS_TOKEN,
            HS_TOKEN,
            "relaybot",
            "relay",
            state_store=self.state_store,
            ephemeral_events=True,
            encryption_events=True,
        )
        # A transaction is answered once all in it is done.
        self.az.synchronous_handlers = True
        self.az.matrix_event_handler(self.handle)
        await self.az.start("127.0.0.1", self.port)
        await self.az.intent.ensure_registered()
        self.e2ee = EncryptionManager(self, url, PREFIX, SUFFIX, path)
        await self.e2ee.start()
        await self.az.ping_self()

    async def stop(self):
        await self.e2ee.stop()
        await self.az.stop()
        await self.db.stop()

    async def get_portal(self, room_id):
        return None

    async def handle(self, event):
        try:
            await self.take(event)
        except Exception as failure:
            self.failures.append(f"{event.type} {failure!r}")

    async def take(self, event):
        if event.type == EventType.TYPING:
            self.typing.append(event)
            return
        if event.type == EventType.ROOM_MEMBER:
            await self.e2ee.handle_member_event(event)
            if event.content.membership.value == "invite" and event.state_key in (BOT, GHOST):
                await self.join(event.state_key, event.room_id)
            return
        if event.type == EventType.ROOM_ENCRYPTED:
            event = await self.e2ee.decrypt(event, wait_session_timeout=TIMEOUT)
        if event.type == EventType.ROOM_MESSAGE and not event.sender.startswith("@relay"):
            self.network.append((event.sender, event.content.body))

    async def join(self, user, room_id):
        intent = self.az.intent.user(user)
        await intent.ensure_joined(room_id)
        # What was before its invitation it is not told.
        await intent.get_joined_members(room_id)
        try:
            await intent.get_state_event(room_id, EventType.ROOM_ENCRYPTION)
        except MNotFound:
            pass

    async def says(self, room_id, text):
        """Somebody says something on the other network."""
        content = TextMessageEventContent(msgtype=MessageType.TEXT, body=text)
        if await self.state_store.is_encrypted(room_id):
            kind, content = await self.e2ee.encrypt(room_id, EventType.ROOM_MESSAGE, content)
            await self.az.intent.send_message_event(room_id, kind, content)
        else:
            await self.az.intent.user(GHOST).send_message(room_id, content)


class KnownState(MemoryStateStore, StateStore):
    """What a person's client knows of rooms."""

    async def find_shared_rooms(self, user_id):
        return [room for room, members in self.members.items() if user_id in members]


class Relay:
    """What the steps share."""

    def __init__(self, server, bridge):
        self.server, self.bridge = server, bridge
        self.anna = None
        self.heard = []
        self.plain = self.encrypted = None
        self.said = []

    async def registers(self):
        await self.bridge.start(self.server.url)
        await self.bridge.az.intent.user(GHOST).set_displayname("Carol")

    async def signs_in(self):
        state = KnownState()
        self.anna = Client(base_url=self.server.url, sync_store=MemorySyncStore(), state_store=state)
        body = {"username": "anna", "password": "the password of a test", "auth": {"type": "m.login.dummy"}}
        answer = await self.anna.api.request("POST", "/_matrix/client/v3/register", content=body)
        self.anna.api.token = answer["access_token"]
        self.anna.mxid, self.anna.device_id = answer["user_id"], answer["device_id"]
        self.anna.crypto = OlmMachine(self.anna, MemoryCryptoStore("anna", "key"), state)
        await self.anna.crypto.load()
        await self.anna.crypto.share_keys()
        self.anna.add_event_handler(EventType.ROOM_MESSAGE, self.hears)
        self.anna.start(Filter())

    async def hears(self, event):
        if event.sender != self.anna.mxid:
            self.heard.append((event.sender, event.content.body))

    async def room(self, invitees, initial_state=()):
        room_id = await self.anna.create_room(invitees=invitees, initial_state=list(initial_state))
        await self.until(lambda: self.joined(room_id, invitees), "the bridge joins")
        return room_id

    async def joined(self, room_id, users):
        members = await self.anna.get_joined_members(room_id)
        return all(user in members for user in users)

    async def until(self, holds, what):
        """Waits until something holds."""

        async def wait():
            while True:
                answer = holds()
                if asyncio.iscoroutine(answer):
                    answer = await answer
                if answer:
                    return
                await asyncio.sleep(0.05)

        try:
            await asyncio.wait_for(wait(), TIMEOUT)
        except asyncio.TimeoutError:
            raise AssertionError(f"{what}: {self.bridge.network} {self.heard} {self.bridge.failures}")

    async def say(self, room_id, *texts):
        for text in texts:
            await self.anna.send_text(room_id, text)
            self.said.append((self.anna.mxid, text))

    async def arrives(self):
        await self.until(lambda: len(self.bridge.network) >= len(self.said), "all arrives")
        assert self.bridge.network == self.said, (self.bridge.network, self.said)

    async def relays_both_ways(self):
        self.plain = await self.room([BOT, GHOST])
        await self.say(self.plain, "one", "two", "three")
        await self.arrives()
        await self.bridge.says(self.plain, "hello from there")
        await self.until(lambda: (GHOST, "hello from there") in self.heard, "Anna hears it")
        await self.anna.set_typing(self.plain, timeout=30_000)
        await self.until(lambda: self.bridge.typing, "who types is told")

    async def relays_encrypted(self):
        content = RoomEncryptionStateEventContent(algorithm=EncryptionAlgorithm.MEGOLM_V1)
        state = {"type": "m.room.encryption", "state_key": "", "content": content.serialize()}
        self.encrypted = await self.room([BOT], [state])
        await self.say(self.encrypted, "secret one", "secret two")
        await self.arrives()
        await self.bridge.says(self.encrypted, "secret from there")
        await self.until(lambda: (BOT, "secret from there") in self.heard, "Anna reads it")

    async def lets_nobody_else_have_its_names(self):
        body = {"username": "relay_mallory", "password": "the password of a test", "auth": {"type": "m.login.dummy"}}
        try:
            await self.anna.api.request("POST", "/_matrix/client/v3/register", content=body)
        except Exception as refused:
            assert getattr(refused, "errcode", None) == "M_EXCLUSIVE", refused
        else:
            raise AssertionError("the name was given away")

    async def tells_later_what_was_said_meanwhile(self):
        # Nothing is lost or told twice, whoever of the two is away.
        await self.bridge.az.runner.cleanup()
        await self.say(self.plain, "four", "five")
        await self.server.end(signal.SIGKILL)
        await self.server.start()
        await self.say(self.plain, "six")
        await self.say(self.encrypted, "secret three")
        await self.bridge.stop()
        await self.bridge.start(self.server.url)
        await self.arrives()
        assert self.bridge.failures == [], self.bridge.failures

    async def stops(self):
        self.anna.stop()
        await self.bridge.stop()
        await self.server.end(signal.SIGTERM)

    steps = (
        registers,
        signs_in,
        relays_both_ways,
        relays_encrypted,
        lets_nobody_else_have_its_names,
        tells_later_what_was_said_meanwhile,
        stops,
    )


async def main(program, folder):
    bridge = Bridge(folder, free_port())
    server = Server(program, folder, bridge.register())
    relay = Relay(server, bridge)
    broken = False
    await server.start()
    try:
        for step in Relay.steps:
            name = f"bridge {step.__name__}"
            if broken:
                print(f"FAILED {name}: not tried")
                continue
            try:
                await step(relay)
                print(f"ok {name}")
            except Exception:
                broken = True
                print(f"FAILED {name}: {traceback.format_exc()}")
    finally:
        await server.end(signal.SIGKILL)
        if relay.anna is not None:
            await relay.anna.api.session.close()
    return broken


if __name__ == "__main__":
    logging.basicConfig(level=logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(asyncio.run(main(sys.argv[1], folder)))

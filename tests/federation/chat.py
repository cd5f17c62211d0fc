"""People on two homeservers share rooms: chat.py PROGRAM [SCENARIO...].

Every scenario is tried with the room on the one and on the other server. Prints a line for each, `ok …` or `FAILED …`.
"""

import concurrent.futures
import functools
import os
import sys
import tempfile
import traceback

from person import Person, Refused, escape, eventually
from servers import Allod, Authority, Synapse

# How many events the history has that is read back from the other server.
HISTORY = 1000
VERSIONS = ("6", "10", "11", "12")


class World:
    """Two servers, and new people for every scenario."""

    def __init__(self, here, there):
        self.here, self.there = here, there
        self.count = 0

    def people(self):
        """One on each server, the first where the room will be."""
        self.count += 1
        order = f"{self.here.kind[0]}{self.count}"
        return Person(self.here, f"anna{order}"), Person(self.there, f"bea{order}")

    def together(self, **options):
        """Two people in a new room."""
        anna, bea = self.people()
        room = anna.create_room(**options)
        bea.join(room, self.here)
        eventually("the join arrives", lambda: anna.membership(room, bea) == "join")
        return anna, bea, room


def invites_and_joins(world):
    anna, bea = world.people()
    room = anna.create_room(preset="private_chat", name="A room")
    anna.invite(room, bea)
    invited = bea.learns("the invite", lambda news: news.get("rooms", {}).get("invite", {}).get(room))
    kinds = {event["type"] for event in invited["invite_state"]["events"]}
    assert {"m.room.name", "m.room.member", "m.room.join_rules"} <= kinds, kinds
    bea.join(room)
    eventually("the join arrives", lambda: anna.membership(room, bea) == "join")
    bea.leave(room)
    eventually("the leave arrives", lambda: anna.membership(room, bea) == "leave")
    anna.invite(room, bea)
    bea.learns("the second invite", lambda news: room in news.get("rooms", {}).get("invite", {}))
    bea.leave(room)
    eventually("the refusal arrives", lambda: anna.membership(room, bea) == "leave")


def messages(world):
    anna, bea, room = world.together()
    sent = []
    for number in range(5):
        for sender, other in ((anna, bea), (bea, anna)):
            sent.append(sender.send(room, f"message {number}"))
            other.sees(room, sent[-1])
    for person in (anna, bea):
        order = [event["event_id"] for event in person.history(room, 50) if event["event_id"] in sent]
        assert order == sent[::-1], order


def versions(world):
    for version in VERSIONS:
        anna, bea, room = world.together(room_version=version)
        bea.sees(room, anna.send(room, version))
        event = bea.send(room, version)
        anna.sees(room, event)
        bea.redact(room, event)
        eventually("the redaction arrives", lambda: not anna.event(room, event)["content"])
        assert same_state(anna, bea, room)


def redactions(world):
    anna, bea, room = world.together()
    event = bea.send(room, "regretted")
    anna.sees(room, event)
    anna.redact(room, event)
    eventually("the redaction arrives", lambda: not bea.event(room, event)["content"])


def bans(world):
    anna, bea, room = world.together()
    anna.post(f"/rooms/{escape(room)}/ban", {"user_id": bea.user_id, "reason": "a test"})
    bea.learns("the ban", lambda news: room in news.get("rooms", {}).get("leave", {}))
    refused(403, lambda: bea.send(room, "still here"))
    refused(403, lambda: bea.join(room, world.here))
    anna.post(f"/rooms/{escape(room)}/unban", {"user_id": bea.user_id})
    eventually("the join is possible", lambda: joins(bea, room, world.here))


def server_acls(world):
    anna, bea, room = world.together()
    bea.sees(room, anna.send(room, "before"))
    # The port is no part of what an entry is compared with.
    denied = {"allow": ["*"], "deny": [world.there.host], "allow_ip_literals": True}
    event = anna.set_state(room, "m.room.server_acl", denied)
    bea.sees(room, event)
    unheard = bea.send(room, "from a denied server")
    anna.set_state(room, "m.room.server_acl", {**denied, "deny": []})
    bea.sees(room, anna.send(room, "welcome back"))
    anna.sees(room, bea.send(room, "thanks"))
    assert bea.event(room, unheard)


def knocks(world):
    anna, bea = world.people()
    room = anna.create_room(
        preset="private_chat",
        initial_state=[{"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "knock"}}],
    )
    bea.post(f"/knock/{escape(room)}?via={escape(world.here.name)}&server_name={escape(world.here.name)}", {})
    eventually("the knock arrives", lambda: anna.membership(room, bea) == "knock")
    anna.invite(room, bea)
    bea.learns("the invite", lambda news: room in news.get("rooms", {}).get("invite", {}))
    bea.join(room, world.here)
    eventually("the join arrives", lambda: anna.membership(room, bea) == "join")


def restricted_joins(world):
    anna, bea, space = world.together()
    rule = {"join_rule": "restricted", "allow": [{"type": "m.room_membership", "room_id": space}]}
    state = [{"type": "m.room.join_rules", "state_key": "", "content": rule}]
    room = anna.create_room(preset="private_chat", initial_state=state)
    bea.join(room, world.here)
    eventually("the join arrives", lambda: anna.membership(room, bea) == "join")
    outsider = Person(world.there, f"cleo{world.here.kind[0]}{world.count}")
    refused(403, lambda: outsider.join(room, world.here))


def aliases_and_directory(world):
    anna, bea = world.people()
    name = f"directory{world.count}"
    room = anna.create_room(room_alias_name=name, visibility="public", name=f"Listed {world.count}")
    alias = f"#{name}:{world.here.name}"
    found = bea.get(f"/directory/room/{escape(alias)}")
    assert found["room_id"] == room and world.here.name in found["servers"], found
    listed = bea.get(f"/publicRooms?server={escape(world.here.name)}")["chunk"]
    assert room in {entry["room_id"] for entry in listed}, listed
    assert bea.join(alias) == room
    anna.put(f"/profile/{escape(anna.user_id)}/displayname", {"displayname": "Anna"})
    profile = bea.get(f"/profile/{escape(anna.user_id)}")
    assert profile["displayname"] == "Anna", profile


def typing_and_receipts(world):
    anna, bea, room = world.together()
    anna.sync(), bea.sync()
    event = anna.send(room, "read me")
    bea.sees(room, event)
    bea.put(f"/rooms/{escape(room)}/typing/{escape(bea.user_id)}", {"typing": True, "timeout": 30000})
    anna.learns("the typing", lambda news: any(
        bea.user_id in edu["content"]["user_ids"] for edu in ephemeral(news, room, "m.typing")))
    bea.post(f"/rooms/{escape(room)}/receipt/m.read/{escape(event)}")
    anna.learns("the receipt", lambda news: any(
        bea.user_id in edu["content"].get(event, {}).get("m.read", {}) for edu in ephemeral(news, room, "m.receipt")))


def backfill(world):
    anna, bea = world.people()
    room = anna.create_room()
    with concurrent.futures.ThreadPoolExecutor(8) as senders:
        sent = list(senders.map(lambda number: anna.send(room, f"{number}"), range(HISTORY)))
    bea.join(room, world.here)

    def complete():
        found = {event["event_id"] for event in bea.history(room, HISTORY + 50)}
        return found.issuperset(sent)

    eventually(f"all {HISTORY} events are there", complete, seconds=240)


def media(world):
    anna, bea, _ = world.together()
    content = bytes(range(256)) * 400
    assert bea.download(anna.upload(content, "application/octet-stream")) == content


def upgrades(world):
    anna, bea, room = world.together(room_version="10")
    new = anna.post(f"/rooms/{escape(room)}/upgrade", {"new_version": "11"})["replacement_room"]
    found = eventually("the tombstone", lambda: tombstone(bea, room))
    assert found["replacement_room"] == new
    bea.join(new, world.here)
    bea.sees(new, anna.send(new, "moved"))


def outage(world):
    anna, bea, room = world.together()
    bea.sees(room, anna.send(room, "before"))
    for stopped, awake, sender in ((world.there, bea, anna), (world.here, anna, bea)):
        stopped.stop()
        with concurrent.futures.ThreadPoolExecutor(4) as senders:
            sent = list(senders.map(lambda number: sender.send(room, f"meanwhile {number}"), range(60)))
        stopped.start()
        # What is new tells the other that it missed something.
        sent.append(sender.send(room, "after"))
        for event in sent:
            awake.sees(room, event)
        sender.sees(room, awake.send(room, "back"))
    eventually("the states are the same", lambda: same_state(anna, bea, room))
    texts = [{event["event_id"] for event in person.history(room, 500)} for person in (anna, bea)]
    assert texts[0] == texts[1], texts[0] ^ texts[1]


def keys_and_to_device(world):
    anna, bea, _ = world.together()
    anna.sync(), bea.sync()
    device = bea.get("/account/whoami")["device_id"]
    body = {"messages": {bea.user_id: {device: {"secret": world.count}}}}
    anna.put(f"/sendToDevice/org.example.test/t{world.count}{world.here.kind}", body)
    bea.learns("the message", lambda news: any(
        event["content"] == {"secret": world.count} for event in news.get("to_device", {}).get("events", [])))
    answer = anna.post("/keys/query", {"device_keys": {bea.user_id: []}})
    assert not answer.get("failures"), answer


def refused(status, request):
    """The request must be refused so."""
    try:
        request()
    except Refused as refusal:
        assert refusal.status == status, refusal
    else:
        raise AssertionError(f"not refused with {status}")


def joins(person, room, server):
    try:
        return person.join(room, server)
    except Refused:
        return None


def ephemeral(news, room, kind):
    joined = news.get("rooms", {}).get("join", {}).get(room, {})
    return [edu for edu in joined.get("ephemeral", {}).get("events", []) if edu["type"] == kind]


def tombstone(person, room):
    try:
        return person.get(f"/rooms/{escape(room)}/state/m.room.tombstone/")
    except Refused:
        return None


def same_state(anna, bea, room):
    return anna.state(room) == bea.state(room)


SCENARIOS = (
    invites_and_joins, messages, versions, redactions, bans, server_acls, knocks, restricted_joins,
    aliases_and_directory, typing_and_receipts, keys_and_to_device, backfill, media, upgrades, outage,
)


def attempt(name, scenario):
    """Runs it and says what came of it."""
    try:
        scenario()
    except Exception:
        traceback.print_exc(limit=4)
        print(f"FAILED {name}", flush=True)
        return False
    print(f"ok {name}", flush=True)
    return True


def main():
    program, *wanted = sys.argv[1:]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        authority = Authority(folder)
        allod = Allod(os.path.abspath(program), os.path.join(folder, "allod"), authority)
        other = Synapse(sys.executable, os.path.join(folder, "synapse"), authority)
        try:
            for server in (allod, other):
                server.start()
            for here, there in ((allod, other), (other, allod)):
                world = World(here, there)
                for scenario in SCENARIOS:
                    if wanted and not any(scenario.__name__.startswith(name) for name in wanted):
                        continue
                    name = f"{scenario.__name__}, a room of {here.kind}"
                    results.append(attempt(name, functools.partial(scenario, world)))
            if not all(results):
                print(f"allod printed at last:\n{allod.tail()}")
        finally:
            for server in (allod, other):
                server.stop()
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    sys.exit(not all(results))


if __name__ == "__main__":
    main()

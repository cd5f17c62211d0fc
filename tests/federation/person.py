"""A person on a homeserver: the client-server API, as far as the tests need it."""

import itertools
import json
import time
import urllib.error
import urllib.parse
import urllib.request

# The longest that anything takes to arrive.
ARRIVAL_SECONDS_MAX = 60


class Refused(Exception):
    """The server's answer is an error."""

    def __init__(self, method, path, status, body):
        super().__init__(f"{method} {path}: {status} {body}")
        self.status = status
        self.errcode = body.get("errcode") if isinstance(body, dict) else None


def escape(text):
    """The text as a part of a path."""
    return urllib.parse.quote(text, safe="")


def eventually(what, condition, seconds=ARRIVAL_SECONDS_MAX):
    """Waits until the condition gives something, and gives that."""
    until = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > until:
            raise AssertionError(f"never: {what}")
        time.sleep(0.1)


class Person:
    """Someone with an account."""

    transactions = itertools.count()

    def __init__(self, server, name):
        self.server = server
        self.token = None
        body = {"username": name, "password": "the password of a test", "auth": {"type": "m.login.dummy"}}
        answer = self.post("/register", body)
        self.token, self.user_id = answer["access_token"], answer["user_id"]
        self.since = None

    def request(self, method, path, body=None, content_type="application/json", raw=False):
        """The answer to a request; an error is raised."""
        url = self.server.url + (path if path.startswith("/_matrix") else "/_matrix/client/v3" + path)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = {"Content-Type": content_type}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(url, data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                content = answer.read()
                return content if raw else json.loads(content)
        except urllib.error.HTTPError as error:
            content = error.read()
            try:
                content = json.loads(content)
            except ValueError:
                content = content[:200]
            raise Refused(method, path, error.code, content) from None

    def get(self, path, **options):
        return self.request("GET", path, **options)

    def post(self, path, body=None):
        return self.request("POST", path, {} if body is None else body)

    def put(self, path, body):
        return self.request("PUT", path, body)

    def create_room(self, **options):
        return self.post("/createRoom", {"preset": "public_chat", **options})["room_id"]

    def invite(self, room, person):
        self.post(f"/rooms/{escape(room)}/invite", {"user_id": person.user_id})

    def join(self, room, *via):
        query = urllib.parse.urlencode([(name, server.name) for server in via for name in ("via", "server_name")])
        return self.post(f"/join/{escape(room)}?{query}")["room_id"]

    def leave(self, room):
        self.post(f"/rooms/{escape(room)}/leave")

    def send(self, room, text, kind="m.room.message", **content):
        body = {"msgtype": "m.text", "body": text, **content}
        path = f"/rooms/{escape(room)}/send/{kind}/t{next(self.transactions)}"
        return self.put(path, body)["event_id"]

    def redact(self, room, event):
        return self.put(f"/rooms/{escape(room)}/redact/{escape(event)}/t{next(self.transactions)}", {})["event_id"]

    def set_state(self, room, kind, content, key=""):
        return self.put(f"/rooms/{escape(room)}/state/{kind}/{escape(key)}", content)["event_id"]

    def state(self, room):
        """The room's current state: the events' ids by type and key."""
        events = self.get(f"/rooms/{escape(room)}/state")
        return {(event["type"], event["state_key"]): event["event_id"] for event in events}

    def event(self, room, event):
        """The event, or nothing where there is none to be seen."""
        try:
            return self.get(f"/rooms/{escape(room)}/event/{escape(event)}")
        except Refused as refused:
            if refused.status in (403, 404):
                return None
            raise

    def history(self, room, events):
        """Up to so many events, the newest first, page by page."""
        found, query = [], ""
        while len(found) < events:
            page = self.get(f"/rooms/{escape(room)}/messages?dir=b&limit=100{query}")
            found += page["chunk"]
            if "end" not in page:
                break
            query = f"&from={escape(page['end'])}"
        return found

    def membership(self, room, person):
        """What the server of this person holds of another's membership."""
        try:
            path = f"/rooms/{escape(room)}/state/m.room.member/{escape(person.user_id)}"
            return self.get(path)["membership"]
        except Refused as refused:
            if refused.status in (403, 404):
                return None
            raise

    def sync(self, timeout=0):
        """What is new since the last call."""
        query = f"?timeout={timeout}" + (f"&since={escape(self.since)}" if self.since else "")
        answer = self.get("/sync" + query)
        self.since = answer["next_batch"]
        return answer

    def sees(self, room, event):
        """Waits until the event is there."""
        return eventually(f"{self.user_id} sees {event}", lambda: self.event(room, event))

    def learns(self, what, look):
        """Syncs until `look` finds something in an answer."""
        return eventually(f"{self.user_id} learns of {what}", lambda: look(self.sync(timeout=1000)))

    def upload(self, content, kind):
        """Uploads media; gives its server and id."""
        answer = self.request("POST", "/_matrix/media/v3/upload", content, content_type=kind)
        return answer["content_uri"].removeprefix("mxc://")

    def download(self, media):
        return self.get(f"/_matrix/client/v1/media/download/{media}", raw=True)

"""A MongoDB server that is enough for HKube's services, over mongomock: mongo_server.py PORT.

No package of Debian, npm or PyPI holds a mongod. This one speaks the wire protocol (OP_QUERY for the
greeting, OP_MSG) with SCRAM-SHA-256 for one user, and has the commands that @hkube/db sends. Nothing is kept
on disk.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import hashlib
import hmac
import os
import struct
import sys
from collections.abc import Callable
from typing import Any

import bson
import mongomock

#: The user and password that HKube's services have when none is set.
PASSWORD = "password"
ITERATIONS = 4096
SALT = b"0123456789abcdef"
_OP_REPLY, _OP_QUERY, _OP_MSG = 1, 2004, 2013
_CHECKSUM, _MORE_TO_COME = 1, 2
_DUPLICATE_KEY, _NO_SUCH_COMMAND, _FAILED = 11000, 59, 8000
#: Commands that need no more than to be accepted.
_ACCEPTED = {"ping", "endsessions", "committransaction", "aborttransaction", "killcursors"}

Document = dict[str, Any]


class Refused(Exception):
    """A command that is answered with an error."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Login:
    """The SCRAM-SHA-256 exchange of one connection."""

    def __init__(self) -> None:
        self._begun: tuple[str, str, str] = ("", "", "")

    def start(self, command: Document) -> Document:
        """Answer the client's first message."""
        bare = bytes(command["payload"]).decode()[3:]
        fields = dict(part.split("=", 1) for part in bare.split(","))
        nonce = fields["r"] + base64.b64encode(os.urandom(12)).decode()
        first = f"r={nonce},s={base64.b64encode(SALT).decode()},i={ITERATIONS}"
        self._begun = (bare, first, nonce)
        return {"conversationId": 1, "done": False, "payload": first.encode()}

    def go_on(self, command: Document) -> Document:
        """Answer the client's proof. Raises Refused for a wrong password."""
        text = bytes(command["payload"]).decode()
        if not text:
            return {"conversationId": 1, "done": True, "payload": b""}
        without_proof, proof = text.rsplit(",p=", 1)
        bare, first, _ = self._begun
        message = f"{bare},{first},{without_proof}".encode()
        salted = hashlib.pbkdf2_hmac("sha256", PASSWORD.encode(), SALT, ITERATIONS)
        client_key = _mac(salted, b"Client Key")
        signature = _mac(hashlib.sha256(client_key).digest(), message)
        expected = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        if base64.b64decode(proof) != expected:
            raise Refused(18, "Authentication failed.")
        answer = base64.b64encode(_mac(_mac(salted, b"Server Key"), message))
        return {"conversationId": 1, "done": True, "payload": b"v=" + answer}


def _mac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()


class Commands:
    """The commands on documents."""

    def __init__(self) -> None:
        self._client = mongomock.MongoClient()

    def run(self, database: str, command: Document) -> Document:
        """Carry the command out. Raises Refused."""
        name = next(iter(command))
        own: Callable[[Any, Document], Document] | None = getattr(self, f"_{name.lower()}", None)
        if own is None or name.lower() == "run":
            raise Refused(_NO_SUCH_COMMAND, f"no such command: {name}")
        collection = command[name]
        found = self._client[database][collection] if isinstance(collection, str) else None
        return own(found, command)

    def _createindexes(self, collection: Any, command: Document) -> Document:
        for index in command["indexes"]:
            collection.create_index(
                list(index["key"].items()), unique=bool(index.get("unique")), name=index["name"]
            )
        return {}

    def _insert(self, collection: Any, command: Document) -> Document:
        errors: list[Document] = []
        count = 0
        for number, document in enumerate(command["documents"]):
            document.setdefault("_id", bson.ObjectId())
            try:
                collection.insert_one(document)
                count += 1
            except mongomock.DuplicateKeyError as error:
                text = f"E11000 duplicate key {error}"
                errors.append(
                    {"index": number, "code": _DUPLICATE_KEY, "errmsg": text, "keyPattern": {"name": 1}}
                )
                if command.get("ordered", True):
                    break
        return {"n": count, **({"writeErrors": errors} if errors else {})}

    def _update(self, collection: Any, command: Document) -> Document:
        matched, modified = 0, 0
        upserted: list[Document] = []
        for number, one in enumerate(command["updates"]):
            change, upsert = dict(one["u"]), bool(one.get("upsert"))
            if any(key.startswith("$") for key in change):
                if "$set" in change:  # mongomock refuses what changes nothing
                    change["$set"] = {key: value for key, value in change["$set"].items() if key != "_id"}
                update = collection.update_many if one.get("multi") else collection.update_one
                result = update(one["q"], change, upsert=upsert)
            else:
                result = collection.replace_one(one["q"], change, upsert=upsert)
            if result.upserted_id is not None:
                upserted.append({"index": number, "_id": result.upserted_id})
                matched += 1
            else:
                matched += result.matched_count
                modified += result.modified_count or 0
        return {"n": matched, "nModified": modified, **({"upserted": upserted} if upserted else {})}

    def _delete(self, collection: Any, command: Document) -> Document:
        count = 0
        for one in command["deletes"]:
            delete = collection.delete_one if one.get("limit") == 1 else collection.delete_many
            count += delete(one["q"]).deleted_count
        return {"n": count}

    def _find(self, collection: Any, command: Document) -> Document:
        condition = command.get("filter") or {}
        shape: Document = command.get("projection") or {}
        if any(isinstance(value, str) for value in shape.values()):  # of aggregations only, says mongomock
            fields = {
                key: f"${str(value).lstrip('$')}" if isinstance(value, str) else value
                for key, value in shape.items()
            }
            found = list(collection.aggregate([{"$match": condition}, {"$project": fields}]))
        else:
            found = _sorted(collection.find(condition, shape or None), command.get("sort") or {})
        skip, limit = int(command.get("skip") or 0), abs(int(command.get("limit") or 0))
        return _cursor(collection, found[skip : skip + limit] if limit else found[skip:])

    def _count(self, collection: Any, command: Document) -> Document:
        return {"n": collection.count_documents(command.get("query") or {})}

    def _aggregate(self, collection: Any, command: Document) -> Document:
        return _cursor(collection, list(collection.aggregate(command["pipeline"])))

    def _findandmodify(self, collection: Any, command: Document) -> Document:
        found = collection.find_one_and_update(
            command["query"],
            command["update"],
            upsert=bool(command.get("upsert")),
            return_document=bool(command.get("new")),
        )
        return {"value": found}


def _sorted(cursor: Any, order: Document) -> list[Document]:
    keys = [(key, int(value)) for key, value in order.items() if key != "$natural"]
    found = list(cursor.sort(keys) if keys else cursor)
    return found[::-1] if order.get("$natural") == -1 else found


def _cursor(collection: Any, documents: list[Document]) -> Document:
    return {"cursor": {"id": bson.Int64(0), "ns": collection.full_name, "firstBatch": documents}}


def _greeting() -> Document:
    return {
        "ismaster": True,
        "isWritablePrimary": True,
        "maxBsonObjectSize": 16 * 2**20,
        "maxMessageSizeBytes": 48_000_000,
        "maxWriteBatchSize": 100_000,
        "localTime": datetime.datetime.now(datetime.timezone.utc),
        "logicalSessionTimeoutMinutes": 30,
        "minWireVersion": 0,
        "maxWireVersion": 9,
        "readOnly": False,
        "saslSupportedMechs": ["SCRAM-SHA-256"],
    }


def answer(commands: Commands, login: Login, command: Document) -> Document:
    """Return the whole answer to a command, an error included."""
    name = next(iter(command)).lower()
    try:
        if name in ("ismaster", "hello"):
            found = _greeting()
        elif name == "buildinfo":
            found = {"version": "4.4.0", "versionArray": [4, 4, 0, 0]}
        elif name == "saslstart":
            found = login.start(command)
        elif name == "saslcontinue":
            found = login.go_on(command)
        elif name in _ACCEPTED:
            found = {}
        else:
            found = commands.run(str(command.get("$db", "admin")), command)
    except Refused as error:
        return {"ok": 0.0, "errmsg": str(error), "code": error.code}
    except Exception as error:  # noqa: BLE001 - what mongomock cannot do is an error of the command alone
        return {"ok": 0.0, "errmsg": f"{type(error).__name__}: {error}", "code": _FAILED}
    return {**found, "ok": 1.0}


def read_message(body: bytes, flags: int) -> Document:
    """Return the command of an OP_MSG, whose documents may be in sections of their own."""
    at, end = 4, len(body) - (4 if flags & _CHECKSUM else 0)
    command: Document = {}
    sequences: Document = {}
    while at < end:
        kind = body[at]
        at += 1
        (length,) = struct.unpack_from("<i", body, at)
        section = body[at : at + length]
        at += length
        if kind == 0:
            command = bson.decode(section)
            continue
        name, _, rest = section[4:].partition(b"\0")
        sequences[name.decode()] = bson.decode_all(rest)
    return {**command, **sequences}


async def serve(commands: Commands, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one client until it has gone."""
    login = Login()
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            length, request, _, operation = struct.unpack("<iiii", await reader.readexactly(16))
            body = await reader.readexactly(length - 16)
            if operation == _OP_QUERY:
                name_end = body.index(0, 4)
                found = answer(commands, login, bson.decode(body[name_end + 9 :]))
                data = struct.pack("<iqii", 8, 0, 0, 1) + bson.encode(found)
                operation = _OP_REPLY
            else:
                (flags,) = struct.unpack_from("<I", body)
                found = answer(commands, login, read_message(body, flags))
                if flags & _MORE_TO_COME:
                    continue
                data = struct.pack("<I", 0) + b"\0" + bson.encode(found)
            writer.write(struct.pack("<iiii", 16 + len(data), 1, request, operation) + data)
            await writer.drain()
    writer.close()


async def main(port: int) -> None:
    """Serve on the loopback address until the process is ended."""
    commands = Commands()
    server = await asyncio.start_server(
        lambda reader, writer: serve(commands, reader, writer), "127.0.0.1", port, limit=2**26
    )
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))

"""A LwM2M device on aiocoap and DTLSSocket, for tests: device.py <uri> <endpoint> [name=value ...].

What it prints and takes is described in tests/interop/src/peer.rs.
"""

import asyncio
import struct
import sys

from aiocoap import Context, Message, error, resource
from aiocoap.numbers.codes import BAD_REQUEST, CHANGED, CONTENT, DELETE, NOT_ACCEPTABLE, POST
from aiocoap.numbers.codes import UNSUPPORTED_CONTENT_FORMAT

TEXT, LINKS, TLV = 0, 40, 11542


def say(line):
    print(line, flush=True)


def record(number, value):
    """One resource with a value: type, identifier, length, value."""
    kind = 0b11_0_00_000
    out = struct.pack(">H" if number > 255 else "B", number)
    kind |= 0b00_1_00_000 if number > 255 else 0
    if len(value) < 8:
        kind |= len(value)
    elif len(value) < 256:
        kind |= 0b01_000
        out += struct.pack("B", len(value))
    else:
        kind |= 0b10_000
        out += struct.pack(">H", len(value))
    return bytes([kind]) + out + value


def value_of(data):
    """The value in a TLV of one resource."""
    kind, at = data[0], 3 if data[0] & 0x20 else 2
    width = kind >> 3 & 3
    size = int.from_bytes(data[at : at + width], "big") if width else kind & 7
    if kind >> 6 != 3 or len(data) != at + width + size:
        raise ValueError("no resource with a value")
    return data[at + width :]


class Value(resource.ObservableResource):
    """A resource with a text or a number."""

    def __init__(self, path, value, writable=False):
        super().__init__()
        self.path, self.value, self.writable = path, value, writable

    def text(self):
        return str(self.value).encode()

    def tlv(self):
        raw = struct.pack(">d", self.value) if isinstance(self.value, float) else self.text()
        return record(int(self.path.rsplit("/", 1)[1]), raw)

    async def render_get(self, request):
        wanted = TEXT if request.opt.accept is None else request.opt.accept
        if wanted == TEXT:
            return Message(code=CONTENT, payload=self.text(), content_format=TEXT)
        if wanted == TLV:
            return Message(code=CONTENT, payload=self.tlv(), content_format=TLV)
        return Message(code=NOT_ACCEPTABLE)

    async def render_put(self, request):
        if not self.writable:
            raise error.UnallowedMethod()
        sent = TEXT if request.opt.content_format is None else request.opt.content_format
        if sent not in (TEXT, TLV):
            return Message(code=UNSUPPORTED_CONTENT_FORMAT)
        try:
            raw = request.payload if sent == TEXT else value_of(request.payload)
        except (ValueError, IndexError):
            return Message(code=BAD_REQUEST)
        self.set(raw.decode())
        say(f"written {self.path} {self.value}")
        return Message(code=CHANGED)

    def set(self, value):
        self.value = value
        self.updated_state()


class Action(resource.Resource):
    """A resource to execute."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    async def render_post(self, request):
        say(f"executed {self.path} {request.payload.decode()}")
        return Message(code=CHANGED)


class Instance(resource.Resource):
    """An object instance: all its values as TLV, or its links."""

    def __init__(self, path, values):
        super().__init__()
        self.path, self.values = path, values

    async def render_get(self, request):
        if request.opt.accept == LINKS:
            links = [self.path] + [value.path for value in self.values]
            text = ",".join(f"<{link}>" for link in links)
            return Message(code=CONTENT, payload=text.encode(), content_format=LINKS)
        if request.opt.accept in (None, TLV):
            whole = b"".join(value.tlv() for value in self.values)
            return Message(code=CONTENT, payload=whole, content_format=TLV)
        return Message(code=NOT_ACCEPTABLE)


async def connected(uri, site, settings):
    if uri.startswith("coap:"):
        # One socket for both directions, as a LwM2M device has.
        return await Context.create_server_context(site, bind=("127.0.0.1", 0), transports=["udp6"])
    identity, key = settings["psk"].split(":")
    context = await Context.create_client_context(transports=["tinydtls"])
    context.client_credentials.load_from_dict(
        {uri + "/*": {"dtls": {"psk": {"hex": key}, "client-identity": {"ascii": identity}}}}
    )
    # The server's requests come on the connection that the device opened.
    context.serversite = site
    return context


async def main():
    uri, endpoint = sys.argv[1:3]
    settings = {"lifetime": "300"} | dict(word.split("=", 1) for word in sys.argv[3:])
    temperature = Value("/3303/0/5700", 20.0)
    device = [
        Value("/3/0/0", "zeelos interop"),
        Value("/3/0/1", "aiocoap"),
        Value("/3/0/15", "UTC", writable=True),
        Value("/3/0/16", "U"),
    ]
    sensor = [temperature, Value("/3303/0/5750", "test", writable=True)]
    site = resource.Site()
    for leaf in [*device, *sensor, Action("/3/0/4"), Instance("/3/0", device), Instance("/3303/0", sensor)]:
        site.add_resource(leaf.path.strip("/").split("/"), leaf)
    context = await connected(uri, site, settings)
    say("started")

    async def ask(what, **request):
        try:
            answer = await asyncio.wait_for(context.request(Message(**request)).response, 30)
        except Exception as failure:  # whatever the library raises
            say(f"failed {what}: {failure!r}")
            sys.exit(1)
        if not answer.code.is_successful():
            say(f"failed {what}: {answer.code}")
            sys.exit(1)
        return answer

    links = '</>;rt="oma.lwm2m";ct=11542,</1/0>,</3/0>,</3303/0>'
    query = f"ep={endpoint}&lt={settings['lifetime']}&lwm2m=1.1&b=U"
    answer = await ask(
        "registration", code=POST, uri=f"{uri}/rd?{query}", payload=links.encode(), content_format=LINKS
    )
    location = "/" + "/".join(answer.opt.location_path)
    say(f"registered {location}")

    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        words = line.split()
        if words[0] == "set":
            temperature.set(float(words[2]))
            say(f"value /3303/0/5700 {words[2]}")
        elif words[0] == "update":
            await ask("update", code=POST, uri=f"{uri}{location}?lt={settings['lifetime']}")
            say("updated")
        elif words[0] == "deregister":
            await ask("deregistration", code=DELETE, uri=uri + location)
            say("deregistered")
        else:
            say(f"unknown command {line}")


asyncio.run(main())

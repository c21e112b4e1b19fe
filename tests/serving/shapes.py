"""Requests that a careless reader might take otherwise than a careful one, as a table for every face.

``PATH`` stands for the path that is asked for, ``FIELDS`` for the fields that the face wants of a client it knows.
"""

from typing import Final

from strongroom.storage_service.wire.http1 import MAX_CODING, MAX_FIELDS, MAX_HEAD, MAX_LINE

_GET: Final = b"GET PATH HTTP/1.1\r\nHost: x\r\nFIELDS"
_PUT: Final = b"PUT PATH HTTP/1.1\r\nHost: x\r\nFIELDS"
_CHUNKED: Final = _PUT + b"Transfer-Encoding: chunked\r\n\r\n"


def _got(*lines: bytes) -> bytes:
    return _GET + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def _put(*lines: bytes, body: bytes = b"abc") -> bytes:
    return _PUT + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


BAD_HEADS: Final[dict[str, tuple[int, bytes]]] = {
    # the first line
    "words": (400, b"hello there\r\n\r\n"),
    "no version": (400, b"GET PATH\r\n\r\n"),
    "HTTP/0.9": (400, b"GET PATH HTTP/0.9\r\nHost: x\r\n\r\n"),
    "HTTP/1.2": (400, b"GET PATH HTTP/1.2\r\nHost: x\r\n\r\n"),
    "HTTP/2.0": (400, b"GET PATH HTTP/2.0\r\nHost: x\r\n\r\n"),
    "HTTP/11.1": (400, b"GET PATH HTTP/11.1\r\nHost: x\r\n\r\n"),
    "HTTP/1.10": (400, b"GET PATH HTTP/1.10\r\nHost: x\r\n\r\n"),
    "http in lower case": (400, b"GET PATH http/1.1\r\nHost: x\r\n\r\n"),
    "RTSP": (400, b"GET PATH RTSP/1.0\r\nHost: x\r\n\r\n"),
    "ICE": (400, b"GET PATH ICE/1.0\r\nHost: x\r\n\r\n"),
    "the preface of HTTP/2": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "two spaces after the method": (400, b"GET  PATH HTTP/1.1\r\nHost: x\r\n\r\n"),
    "two spaces after the path": (400, b"GET PATH  HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a space at the end": (400, b"GET PATH HTTP/1.1 \r\nHost: x\r\n\r\n"),
    "a space at the beginning": (400, b" GET PATH HTTP/1.1\r\nHost: x\r\n\r\n"),
    "tabs": (400, b"GET\tPATH\tHTTP/1.1\r\nHost: x\r\n\r\n"),
    "a tab in the path": (400, b"GET PATH\t HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a null in the path": (400, b"GET PATH\x00 HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a null in the version": (400, b"GET PATH HTTP/1.1\x00\r\nHost: x\r\n\r\n"),
    "a whole address": (400, b"GET http://xPATH HTTP/1.1\r\nHost: x\r\n\r\n"),
    "an authority": (501, b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a star that is not of OPTIONS": (400, b"GET * HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a star and a query": (400, b"OPTIONS *?a HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a path without its slash": (400, b"GET livez HTTP/1.1\r\nHost: x\r\n\r\n"),
    "no path": (400, b"GET  HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a method of its own": (501, b"FOO PATH HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a method of WebDAV's": (501, b"PROPFIND PATH HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a method in lower case": (400, b"get PATH HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a method of signs": (400, b"G@T PATH HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a line that is too long": (414, b"GET PATH?" + b"q" * MAX_LINE + b" HTTP/1.1\r\nHost: x\r\n\r\n"),
    "a line without end": (414, b"GET PATH?" + b"q" * MAX_HEAD),
    "a line of five megabytes": (431, b"GET PATH?" + b"q" * 5_000_000),
    "TLS": (414, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xaa" * 8000),
    # Host
    "no Host": (400, b"GET PATH HTTP/1.1\r\n\r\n"),
    "no Host, and a body": (400, b"PUT PATH HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"),
    "two Hosts": (400, _got(b"Host: y")),
    "the same Host twice": (400, _got(b"host: x")),
    "a list of Hosts": (400, b"GET PATH HTTP/1.1\r\nHost: x, y\r\n\r\n"),
    "two words as Host": (400, b"GET PATH HTTP/1.1\r\nHost: x y\r\n\r\n"),
    "a user at a Host": (400, b"GET PATH HTTP/1.1\r\nHost: u@x\r\n\r\n"),
    "a path at a Host": (400, b"GET PATH HTTP/1.1\r\nHost: x/y\r\n\r\n"),
    "a Host beyond ASCII": (400, b"GET PATH HTTP/1.1\r\nHost: \xe9\r\n\r\n"),
    # how a body is framed
    "gzip, chunked": (501, _put(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n")),
    "identity beside chunked": (
        501,
        _put(b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    ),
    "identity": (400, _put(b"Transfer-Encoding: identity")),
    "chunked, identity": (400, _put(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n")),
    "chunked, chunked": (400, _put(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n")),
    "chunked twice": (400, _put(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n")),
    "xchunked": (400, _put(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n")),
    "a coding in quotes": (400, _put(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n")),
    "an empty coding": (400, _put(b"Transfer-Encoding:", body=b"0\r\n\r\n")),
    "a parameter of the coding": (400, _put(b"Transfer-Encoding: chunked;a=b", body=b"0\r\n\r\n")),
    "chunks in HTTP/1.0": (400, b"PUT PATH HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "a length and a coding": (400, _put(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n")),
    "a coding and a length": (400, _put(b"Transfer-Encoding: chunked", b"Content-Length: 5", body=b"0\r\n\r\n")),
    "a coding and a length of none": (
        400,
        _put(b"Transfer-Encoding: chunked", b"Content-Length: 0", body=b"0\r\n\r\n"),
    ),
    "two lengths": (400, _put(b"Content-Length: 3", b"Content-Length: 4")),
    "the same length twice": (400, _put(b"Content-Length: 3", b"Content-Length: 3")),
    "a list of lengths": (400, _put(b"Content-Length: 3, 3")),
    "a signed length": (400, _put(b"Content-Length: +3")),
    "a negative length": (400, _put(b"Content-Length: -3")),
    "a length in hexadecimal": (400, _put(b"Content-Length: 0x3")),
    "a length with a point": (400, _put(b"Content-Length: 3.0")),
    "a length of two words": (400, _put(b"Content-Length: 3 3")),
    "a length that wraps": (400, _put(b"Content-Length: 18446744073709551619")),
    "no length at all": (400, _put(b"Content-Length:")),
    "a length in other digits": (400, _put(b"Content-Length: \xb2")),
    "an upgrade with a body": (400, _put(b"Connection: upgrade", b"Upgrade: h2c", b"Content-Length: 3")),
    "an upgrade with chunks": (
        400,
        _put(b"Connection: upgrade", b"Upgrade: websocket", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    ),
    # fields
    "a folded field": (400, _got(b"Accept: a", b" b")),
    "a field folded with a tab": (400, _got(b"Accept: a", b"\tb")),
    "a fold before any field": (400, b"GET PATH HTTP/1.1\r\n Host: x\r\n\r\n"),
    "a folded length": (400, _put(b"Content-Length:", b" 3")),
    "a bare line feed between fields": (400, _got(b"Accept: a\nX-A: b")),
    "bare line feeds alone": (400, b"GET PATH HTTP/1.1\nHost: x\n\n\r\n\r\n"),
    "a bare line feed before the end": (400, b"GET PATH HTTP/1.1\r\nHost: x\n\r\n\r\n"),
    "a bare line feed after the first line": (400, b"GET PATH HTTP/1.1\nHost: x\r\n\r\n"),
    "a bare carriage return": (400, _got(b"Accept: a\rX-A: b")),
    "two carriage returns": (400, _got(b"Accept: a\r")),
    "a null in a value": (400, _got(b"Accept: a\x00b")),
    "a null in a name": (400, _got(b"Acc\x00ept: a")),
    "a control character in a value": (400, _got(b"Accept: a\x01b")),
    "a deletion in a value": (400, _got(b"Accept: a\x7fb")),
    "a space before the colon": (400, _put(b"Content-Length : 3")),
    "a tab before the colon": (400, _put(b"Content-Length\t: 3")),
    "a space in a name": (400, _got(b"X Y: a")),
    "a name of none": (400, _got(b": a")),
    "a line without a colon": (400, _got(b"nothing")),
    "a name in brackets": (400, _got(b"(X): a")),
    "a name beyond ASCII": (400, _got(b"X-\xe9: a")),
    "too many fields": (431, b"GET PATH HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * MAX_FIELDS + b"\r\n"),
    "a field that is too long": (431, _got(b"X-A: " + b"x" * MAX_HEAD)),
    "a field of five megabytes": (431, _got(b"X-A: " + b"x" * 5_000_000)),
    "a name of five megabytes": (431, _got(b"x" * 5_000_000 + b": a")),
    "fields without end": (431, _GET + b"X-A: b\r\n" * 20_000),
    # what is not served
    "a compressed body": (415, _put(b"Content-Encoding: gzip", b"Content-Length: 3")),
    "a body compressed twice": (415, _put(b"Content-Encoding: gzip, br", b"Content-Length: 3")),
    "another expectation": (417, _put(b"Expect: 200-ok", b"Content-Length: 3")),
    "two expectations": (417, _put(b"Expect: 100-continue, x", b"Content-Length: 3")),
}

BAD_BODIES: Final[dict[str, bytes]] = {
    "a size that wraps": b"1000000000000001d\r\nGET PATH HTTP/1.1\r\nHost: x\r\n\r\n0\r\n\r\n",
    "a size that just wraps": b"10000000000000003\r\nabc\r\n0\r\n\r\n",
    "a size of sixteen digits": b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "a negative size": b"-3\r\nabc\r\n0\r\n\r\n",
    "a signed size": b"+3\r\nabc\r\n0\r\n\r\n",
    "a size with a prefix": b"0x3\r\nabc\r\n0\r\n\r\n",
    "a space before the size": b" 3\r\nabc\r\n0\r\n\r\n",
    "no size": b"\r\nabc\r\n0\r\n\r\n",
    "words": b"xyz\r\nabc\r\n0\r\n\r\n",
    "a line feed after the size": b"3\nabc\r\n0\r\n\r\n",
    "a line feed after the chunk": b"3\r\nabc\n0\r\n\r\n",
    "a line feed after the last size": b"3\r\nabc\r\n0\n\r\n\r\n",
    "a carriage return after the size": b"3\rabc\r\n0\r\n\r\n",
    "a chunk that is longer than it says": b"3\r\nabcdef\r\n0\r\n\r\n",
    "a chunk that is shorter than it says": b"5\r\nabc\r\n0\r\n\r\n0\r\n\r\n",
    "a null in the size": b"3\x00\r\nabc\r\n0\r\n\r\n",
    "an extension with a line feed": b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "an extension with a carriage return": b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "zeros without end": b"0" * (MAX_CODING + 100_000),
    "an extension without end": b"3;" + b"x" * (MAX_CODING + 100_000),
    "trailers without end": b"0\r\n" + b"X-A: b\r\n" * (MAX_CODING // 4),
    "tiny chunks with long extensions": (b"1;" + b"x" * 200 + b"\r\na\r\n") * 1000,
    "a trailer that is no field": b"0\r\nnothing\r\n\r\n",
    "a length after the body": b"3\r\nabc\r\n0\r\nContent-Length: 100\r\n\r\n",
    "a coding after the body": b"3\r\nabc\r\n0\r\nTransfer-Encoding: gzip\r\n\r\n",
    "a trailer with a line feed": b"0\r\nX-A: b\nX-C: d\r\n\r\n",
    "a folded trailer": b"0\r\nX-A: b\r\n c\r\n\r\n",
}

ODD_BUT_GOOD: Final[dict[str, bytes]] = {
    "an empty line before": b"\r\n" + _got(),
    "names in any case": b"GET PATH HTTP/1.1\r\nhOsT: x\r\nFIELDS\r\n",
    "spaces round a value": _got(b"Accept: \t a \t "),
    "an empty value": _got(b"X-A:"),
    "as many fields as may be": b"GET PATH HTTP/1.1\r\nHost: x\r\n" + b"X-A: b\r\n" * (MAX_FIELDS - 1) + b"\r\n",
    "a long field": _got(b"X-A: " + b"x" * 30_000),
    "a long line": b"GET PATH?" + b"q" * 3900 + b" HTTP/1.1\r\nHost: x\r\nFIELDS\r\n",
    "an empty Host": b"GET PATH HTTP/1.1\r\nHost:\r\nFIELDS\r\n",
    "a Host with a port": b"GET PATH HTTP/1.1\r\nHost: [::1]:80\r\nFIELDS\r\n",
    "an upgrade": _got(b"Connection: upgrade", b"Upgrade: websocket"),
    "an upgrade to HTTP/2": _got(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"),
    "a body that is its own encoding": _got(b"Content-Encoding: identity"),
    "a length of none": _got(b"Content-Length: 0"),
    "an expectation without a body": _got(b"Expect: 100-continue"),
    "a query of signs": b"GET PATH?a=b&c=%2F~!$'()*+,;:@/? HTTP/1.1\r\nHost: x\r\nFIELDS\r\n",
}

GOOD_BODIES: Final[dict[str, bytes]] = {
    "one chunk": b"3\r\nabc\r\n0\r\n\r\n",
    "many chunks": b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n",
    "zeros before the size": b"0003\r\nabc\r\n000\r\n\r\n",
    "an extension": b'3;a=b;c="d"\r\nabc\r\n0;e\r\n\r\n',
    "a trailer": b"3\r\nabc\r\n0\r\nX-A: b\r\n\r\n",
    "trailers that would be fields": b"3\r\nabc\r\n0\r\nCUSTODIA_AUTH_ID: root\r\nX-Request-ID: stolen-1\r\n\r\n",
    "a trailer that would be a second Host": b"3\r\nabc\r\n0\r\nHost: y\r\n\r\n",
}


def sent(shape: bytes, path: bytes, fields: bytes = b"") -> bytes:
    """Return *shape* for *path*, with *fields* (whole lines)."""
    return shape.replace(b"PATH", path).replace(b"FIELDS", fields)


def chunked(body: bytes, path: bytes, fields: bytes = b"") -> bytes:
    """Return a PUT for *path* whose body is *body*, as it stands."""
    return sent(_CHUNKED, path, fields) + body.replace(b"PATH", path)

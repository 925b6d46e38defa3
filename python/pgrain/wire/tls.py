"""Mutual TLS, for a worker on another machine: both sides show a certificate of one authority.

Imported only where an address asks for it, so that an ordinary session does not load `ssl`.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping

from pgrain.errors import InsufficientPrivilege, NotReady

FILES = ("ca", "certificate", "key")


def context(files: Mapping[str, str], *, server: bool) -> ssl.SSLContext:
    """TLS 1.3 with a certificate of our own, and none accepted that `ca` has not signed.

    files: paths under the names of `FILES`. Raises 55000 if one is missing or cannot be used.
    """
    missing = [name for name in FILES if not files.get(name)]
    if missing:
        raise NotReady(f"TLS needs the file of its {missing[0]}",
                       hint="A remote worker and the server each have a certificate, a key, and "
                            "the authority (ca) that signed both: on the server named in "
                            "pgrain.toml, see docs/user/security.md.")
    result = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    result.minimum_version = ssl.TLSVersion.TLSv1_3
    result.verify_mode = ssl.CERT_REQUIRED
    try:
        result.load_verify_locations(files["ca"])
        result.load_cert_chain(files["certificate"], files["key"])
    except (OSError, ssl.SSLError) as error:
        raise NotReady("the files of TLS cannot be used",
                       detail=f"{error.__class__.__name__}: {error}.",
                       hint=f"ca {files['ca']}, certificate {files['certificate']}, "
                            f"key {files['key']}: are they there, readable, and of one another?"
                       ) from None
    return result


def wants(error: OSError) -> str | None:
    """What a socket that does not block waits for: "read", "write", or None for a real error."""
    if isinstance(error, ssl.SSLWantReadError):
        return "read"
    if isinstance(error, ssl.SSLWantWriteError):
        return "write"
    return None


def names(connection: ssl.SSLSocket) -> set[str]:
    """What the other side's certificate calls itself: common name and alternative names."""
    certificate = connection.getpeercert() or {}
    found = {value for part in certificate.get("subject", ()) for name, value in part
             if name == "commonName"}
    return found | {value for _, value in certificate.get("subjectAltName", ())}


def check_name(connection: ssl.SSLSocket, allowed: set[str]) -> None:
    """42501 unless the certificate has one of the allowed names (no names: any will do)."""
    if allowed and not names(connection) & allowed:
        raise InsufficientPrivilege("this certificate may not connect to the worker",
                                    detail=f"It is of {', '.join(sorted(names(connection)))}.",
                                    hint="Name it with --tls-peer.")

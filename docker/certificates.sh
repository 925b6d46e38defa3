#!/bin/sh
# One authority, one certificate for each side, into /out/server and /out/worker; the authority's key is
# thrown away. Does nothing where they are already. Renew: remove both volumes.
set -eu
if [ -s /out/worker/key.pem ] && [ -s /out/server/key.pem ]; then exit 0; fi
umask 077
cd "$(mktemp -d)"
key="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
# What the key of each may be used for stands in it: OpenSSL's strict checks, which Python's default
# contexts have asked for since 3.13, refuse an authority that does not say so.
# shellcheck disable=SC2086
openssl req -x509 $key -days 3650 -subj '/CN=pgrain authority' -addext keyUsage=critical,keyCertSign \
    -keyout ca.key -out ca.pem 2>/dev/null
for side in server worker; do
    # shellcheck disable=SC2086
    openssl req $key -subj "/CN=$side" -keyout key.pem -out request.pem 2>/dev/null
    printf '%s\n' "subjectAltName=DNS:$side" basicConstraints=critical,CA:FALSE \
        keyUsage=critical,digitalSignature extendedKeyUsage=serverAuth,clientAuth \
        subjectKeyIdentifier=hash authorityKeyIdentifier=keyid >names
    openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 3650 \
        -extfile names -out certificate.pem 2>/dev/null
    cp ca.pem certificate.pem key.pem "/out/$side/"
done
rm -rf "$PWD"
chown -R postgres:postgres /out/server
chown -R pgrain:postgres /out/worker

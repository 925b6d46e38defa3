#!/bin/sh
# The server's first start: a cluster, a password, the database with the extension. Then PostgreSQL in
# the foreground, as the user postgres (the image runs as that user; there is no root in it at run time).
set -eu
: "${POSTGRES_DB:=pgrain}"
export PGDATA=/var/lib/postgresql/data/main

if [ ! -e "$PGDATA" ]; then
    if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then POSTGRES_PASSWORD=$(cat "$POSTGRES_PASSWORD_FILE"); fi
    : "${POSTGRES_PASSWORD:?set POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE}"
    umask 077
    # Under another name until it is whole: who is killed in between begins again.
    new=$PGDATA.new
    rm -rf "$new"
    printf '%s\n' "$POSTGRES_PASSWORD" >/tmp/password
    initdb -D "$new" -U postgres --pwfile=/tmp/password --auth-local=peer \
        --auth-host=scram-sha-256 -E UTF8 --locale=C.UTF-8 --data-checksums --no-instructions
    rm /tmp/password
    # The worker logs in by what the kernel says of it, or by its certificate; in no other way.
    cat >"$new/pg_hba.conf" <<'HBA'
local    all  pgrain_worker       peer map=worker
hostssl  all  pgrain_worker  all  cert map=worker
host     all  pgrain_worker  all  reject
local    all  postgres            peer
local    all  all                 scram-sha-256
host     all  all            all  scram-sha-256
HBA
    printf 'worker pgrain pgrain_worker\nworker worker pgrain_worker\n' >"$new/pg_ident.conf"
    pg_ctl -D "$new" -w -o "-c listen_addresses='' -c unix_socket_directories=/tmp" start
    psql -X -h /tmp -v ON_ERROR_STOP=1 -q -d postgres -v name="$POSTGRES_DB" <<'SQL'
SELECT format('CREATE DATABASE %I', :'name') WHERE :'name' <> 'postgres' \gexec
SQL
    psql -X -h /tmp -v ON_ERROR_STOP=1 -q -d "$POSTGRES_DB" \
        -f /usr/local/share/pgrain/create_extension.sql
    pg_ctl -D "$new" -w stop
    mv "$new" "$PGDATA"
fi

# Keys of this side in /tls: PostgreSQL speaks TLS, and sessions show them to the worker.
rm -f "$PGDATA/pgrain.toml"
if [ -s /tls/key.pem ]; then
    cat >"$PGDATA/pgrain.toml" <<'TOML'
[tls]
ca = "/tls/ca.pem"
certificate = "/tls/certificate.pem"
key = "/tls/key.pem"
TOML
    set -- -c ssl=on -c ssl_ca_file=/tls/ca.pem -c ssl_cert_file=/tls/certificate.pem \
        -c ssl_key_file=/tls/key.pem "$@"
fi
exec postgres -D "$PGDATA" -c listen_addresses='*' "$@"

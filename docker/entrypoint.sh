#!/bin/sh
# The server's first start: a cluster, a password, the database with the extension. Then PostgreSQL in
# the foreground, as the user postgres (the image runs as that user; there is no root in it at run time).
set -eu
: "${PGDATA:=/var/lib/postgresql/data}" "${POSTGRES_DB:=pgrain}"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    : "${POSTGRES_PASSWORD:?set POSTGRES_PASSWORD}"
    umask 077
    printf '%s\n' "$POSTGRES_PASSWORD" >/tmp/password
    initdb -D "$PGDATA" -U postgres --pwfile=/tmp/password --auth-local=peer \
        --auth-host=scram-sha-256 -E UTF8 --locale=C.UTF-8 --data-checksums --no-instructions
    rm /tmp/password
    # The socket's folder is a volume shared with the worker alone.
    {
        echo 'local all postgres peer'
        echo 'local all pgrain_worker trust'
        echo 'local all all scram-sha-256'
        echo 'host  all all all scram-sha-256'
    } >"$PGDATA/pg_hba.conf"
    pg_ctl -D "$PGDATA" -w -o "-c listen_addresses=''" start
    psql -v ON_ERROR_STOP=1 -q -d postgres -v name="$POSTGRES_DB" <<'SQL'
SELECT format('CREATE DATABASE %I', :'name') WHERE :'name' <> 'postgres' \gexec
SQL
    psql -v ON_ERROR_STOP=1 -q -d "$POSTGRES_DB" -f /usr/local/share/pgrain/create_extension.sql
    pg_ctl -D "$PGDATA" -w stop
fi
exec postgres -D "$PGDATA" -c listen_addresses='*' "$@"

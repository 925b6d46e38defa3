#!/bin/sh
# pip install, into the image's environment: from wheels/ if that suffices, else from the index that pip is
# told of. Arguments that were left empty are as if they were not there.
set -eu
for name in PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST; do
    eval "[ -n \"\${$name:-}\" ]" || unset "$name"
done
pip="/opt/pip/bin/pip --python /opt/pgrain/bin/python install --quiet --no-cache-dir --find-links wheels"
$pip --no-index "$@" 2>/tmp/offline || $pip "$@" || { cat /tmp/offline >&2; exit 1; }

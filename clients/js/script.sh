#!/bin/sh
# Prints connmix.script.js: connmix.js for pages that load it by <script src>, where an export is an error.
#   sh script.sh > connmix.script.js
set -eu
cd "$(dirname "$0")"
echo '// Made from connmix.js by script.sh.'
echo '(() => {'
echo '"use strict";'
sed 's/^export class Connmix /globalThis.Connmix = class Connmix /' connmix.js
echo '})();'

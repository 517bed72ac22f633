<?php
// Prints what PHP's parse_str makes of many query strings: `php tests/php/query.php > tests/php/query.json`.
//
// One case a line: [query, result]. Strings are their bytes in hex, arrays lists of [key, value], keys ["i", decimal] or
// ["s", the bytes in hex].

function value($v)
{
    if (!is_array($v)) {
        return bin2hex($v);
    }
    $key = fn ($k) => is_int($k) ? ['i', (string) $k] : ['s', bin2hex($k)];
    return array_map(fn ($k, $v) => [$key($k), value($v)], array_keys($v), $v);
}

$lines = [];

function record(string $query): void
{
    global $lines;
    parse_str($query, $result);
    $lines[] = json_encode([bin2hex($query), value($result)]);
}

const PIECES = ['a', 'b', '[', ']', '[]', '=', '&', '%', '+', '.', ' ', '0', '1', '2', '-', '%5B', '%5D', '%00', "\0", '%20', '%2',
    'a[b]', '[0]', '[1]', '[-1]', '[a]', "\t", '%3D', '%26', "\xc3\xa9", "\xff", ';', '_', '[9223372036854775807]',
    '[9007199254740993]', '[05]', '[ ]', 'a=', 'a[', '&a[', '=1&', '&a=', '&a[]=', '&a[0]=', '&a[a]='];
const KEYS = ['k', 'K', ' k', 'a.b', 'a b', '[x', 'x]', '%41', '05', "\xc3\xa9", "\0n", '', '-1', '1.5'];
const VALUES = ['v', '', 12, -1.5, true, false, null, 'a b&c=d', '%', '+', "\xff"];

function pick(array $of)
{
    return $of[mt_rand(0, count($of) - 1)];
}

function tree(int $depth): array
{
    $tree = [];
    for ($n = mt_rand(0, 4); $n > 0; $n--) {
        $key = mt_rand(0, 1) ? mt_rand(-2, 6) : pick(KEYS);
        $tree[$key] = $depth < 3 && mt_rand(0, 2) === 0 ? tree($depth + 1) : pick(VALUES);
    }
    return mt_rand(0, 3) ? $tree : array_values($tree);
}

mt_srand(1);
for ($i = 0; $i < 900; $i++) {
    $query = '';
    for ($n = mt_rand(1, 10); $n > 0; $n--) {
        $query .= pick(PIECES);
    }
    record($query);
}
for ($i = 0; $i < 300; $i++) {
    record(http_build_query(tree(0)));
}

$version = PHP_MAJOR_VERSION . '.' . PHP_MINOR_VERSION;
echo "{\"php\": \"$version\", \"cases\": [\n", implode(",\n", array_unique($lines)), "\n]}\n";

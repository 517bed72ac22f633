<?php
// Prints what PHP's pack and unpack make of many formats: `php tests/php/pack.php > tests/php/pack.json`.
//
// One case a line: [function, arguments, result]. A result of null stands for a warning or an exception. Values are
// ["i", decimal], ["d", the double's bytes in hex] or ["s", the bytes in hex]; unpack gives [key, value] pairs.

set_error_handler(function (int $level, string $text) {
    throw new ErrorException($text);
}, E_WARNING);

function value($v): array
{
    if (is_int($v)) {
        return ['i', (string) $v];
    }
    if (is_float($v)) {
        return ['d', is_nan($v) ? 'nan' : bin2hex(pack('E', $v))];
    }
    return ['s', bin2hex($v)];
}

$lines = [];

function record(string $function, array $arguments): void
{
    global $lines;
    try {
        $result = $function(...$arguments);
        if (is_array($result)) {
            $result = array_map(fn ($k, $v) => [value($k), value($v)], array_keys($result), $result);
        } else {
            $result = bin2hex($result);
        }
    } catch (ErrorException | ValueError) {
        $result = null;
    }
    $lines[] = json_encode([$function, array_map('value', $arguments), $result], JSON_UNESCAPED_SLASHES);
}

function packed(...$arguments): void
{
    record('pack', $arguments);
}

function unpacked(string $format, string $data): void
{
    record('unpack', [$format, $data]);
}

const INTEGERS = 'cCsSnviIlLNVqQJP';
const FLOATS = 'fgGdeE';
const TEXTS = 'aAZ';
const DIGITS = 'hH';
const BYTES = "\x00\x7f\x80\xff\x01 ~\x20\t\x00\r\n";

// Every code with many values.
foreach (str_split(INTEGERS) as $code) {
    foreach ([0, 1, -1, 127, 128, 255, 256, -128, -129, 32767, 32768, 65535, 65536, 2147483647, 2147483648, 4294967295,
        4294967296, -2147483648, -2147483649, 9007199254740991, 9007199254740992, 9007199254740993, -9007199254740993,
        PHP_INT_MAX, PHP_INT_MIN, 1.9, -1.9, 0.5, 1e15, 1e19, -1e19, 1e30, NAN, INF, -INF] as $number) {
        packed($code, $number);
    }
    foreach (['', '7', '-7', '+7', ' 7', "\t\n\r\v\f 7", "\0007", '7 ', '7x', 'x7', '0x1A', '1_000', '007', '1.9', '-.9',
        '.', '5.', '-', '--1', '1e3', '1e', '1e+', '1e+2x', '1E2', '1e19', '-1e19', '1e400', '9223372036854775807',
        '-9223372036854775808', '9223372036854775807.5', '00000000000000000000000012', 'inf', 'nan'] as $text) {
        packed($code, $text);
    }
    foreach (["\x00\x00\x00\x00\x00\x00\x00\x00", "\xff\xff\xff\xff\xff\xff\xff\xff", "\x80\x00\x00\x00\x00\x00\x00\x01",
        "\x01\x00\x00\x00\x00\x00\x00\x80", "\x7f\xff\xff\xff\xff\xff\xff\xff", "\xff\xff\xff\xff\xff\xff\xff\x7f",
        "\x00\x20\x00\x00\x00\x00\x00\x00", "\x00\x20\x00\x00\x00\x00\x00\x01", "\x01\x00\x00\x00\x00\x00\x20\x00",
        "\xff\xdf\xff\xff\xff\xff\xff\xff", "\x12\x34\x56\x78\x9a\xbc\xde\xf0"] as $data) {
        unpacked("{$code}n", $data);
    }
}
foreach (str_split(FLOATS) as $code) {
    foreach ([0, 0.0, -0.0, 1, -1, 0.1, 1.5, 1e300, -1e300, 1e-300, 3.4028235677973366e38, 3.4028234e38, 1e-45, 1e-46,
        16777217, 5e-324, 9007199254740991, INF, -INF, NAN] as $number) {
        packed($code, $number);
    }
    foreach (['', '1.5', ' 1.5', '1.5x', '-.5', '5.', '.', '1e3', '1e400', '-1e400', '1e-400', 'x', '0x1A', 'nan', '1e',
        "\0005", '0.1', '123456789012345678901234567890'] as $text) {
        packed($code, $text);
    }
    foreach ([0.0, -0.0, 1.0, -2.5, 0.1, INF, -INF, NAN, 1e-40, 3.5e38] as $number) {
        unpacked("{$code}n", pack($code, $number));
    }
    unpacked($code, "\x01\x02\x03\x04\x05\x06\x07\x08");
}
foreach (str_split(TEXTS) as $code) {
    foreach (['', '0', '1', '2', '3', '4', '9', '*', '05'] as $repeater) {
        foreach (['', 'a', 'abc', "a\0b", 'ab  ', "\xff\xfe\xfd\xfc", 12, -3] as $text) {
            packed($code . $repeater, $text);
        }
        foreach (['', 'a', 'abcd', "a\0b\0", "ab \t\r\n\0", "\0abc", '    ', "\vab\v", 'abcdefghijk'] as $data) {
            unpacked("{$code}{$repeater}x/a*rest", $data);
        }
    }
}
foreach (str_split(DIGITS) as $code) {
    foreach (['', '0', '1', '2', '3', '4', '5', '*', '03'] as $repeater) {
        foreach (['', '1', 'aB', '1f2', 'DEAD', 'beef0', 'xyz', '1g', 12] as $text) {
            packed($code . $repeater, $text);
        }
        foreach (['', 'a', 'ab', "\x12\x3f\xe0", 'abcdef'] as $data) {
            unpacked("{$code}{$repeater}x", $data);
            if ($repeater !== '*') {
                unpacked("{$code}{$repeater}x/a*rest", $data);
            }
        }
    }
}

// Formats as wholes.
foreach ([[''], ['', 1], ['C'], ['C*'], ['C2', 1], ['C', 1, 2], ['C0'], ['C0', 1], ['C0*'], ['a'], ['a*'], ['H'], ['y'], ['C y', 1],
    ['C 2', 1], ["a\0", 'x'], ['*'], ['5'], ['/'], ['C/C', 1, 2], ['C*C', 1, 2], ['CC*', 1], ['n*', 1, 2, 65536, -1], ['a2C*', 'xyz', 1, 2],
    ['nvc*', 0x1234, 0x5678, 65, 66], ['A3Z3a3', 'a', 'b', 'c'], ['NnC', '3', '2', '1'], ['x'], ['x3'], ['x0'], ['x*'],
    ['A*x*', 'x'], ['X'], ['X0'], ['X*'], ['CX', 1], ['CX2', 1], ['a5X3', 'hello'], ['a3X2x1', 'abc'], ['a5X2C', 'hello', 65],
    ['x9X9'], ['x9X9C', 1], ['@'], ['@0'], ['@3'], ['@*'], ['a5@2', 'hello'], ['a5@2C', 'hello', 65], ['a5@2@5', 'hello'],
    ['a5@9', 'hello'], ['C@4C', 1, 2], ['@2X', ], ['@2x2@1a2', 'zz'], ['a', 'x', 'y'], ['H2h2', '1f', '1f'], ['d2', 1, 2.5],
    ['f*', 1, 2, 3], ['q2', '9007199254740993', -1], ['x1000@2'], ['x2147483647x'], ['H2147483647', 'ab']] as $arguments) {
    packed(...$arguments);
}
foreach (['', '/', 'C', 'C/', 'C//C', '/C', 'C*', 'C*a', 'Ca/Cb', 'C2a/Cb', 'C2a/C2a', 'Ca/Ca', 'C/C', 'C5', 'C0', 'C0x', 'C1', 'C1x',
    'C01', 'C007x', 'C3n', 'y', ' C', 'C a', 'C2 3', 'C-1', 'C2-', 'C*2', 'C10', 'Ckey with space', "Ca\0b/Cc", 'C*9223372036854775807',
    'C*999', 'C2922337203685477580', 'n', 'n2', 'n*', 'n*x', 'N', 'N2', 'N*', 'q', 'q*', 'nx/Cy', 'Cx/n*y', 'a*', 'a*/a*', 'a*/a', 'a0/a1', 'A2x/a', 'x', 'x2/C',
    'x4', 'x4/C', 'x5', 'x*', 'x*/C', 'x*/C*', 'x0/C', 'X', 'X/C', 'X0/C', 'X*', 'X*/C', 'Ca/X/Cb', 'C2a/X2/Cb', 'Ca/X5/Cb',
    '@', '@/C', '@0/C', '@2/C', '@4', '@4/C', '@4/C*', '@5', '@*', '@-1/C', 'Ca/@1/nb', 'Ca/@4/X2/nb', '@2x/X/C', '@1a/a*', 'x2a/x*b/a*c',
    'H0n/C', 'H3a/Cb', 'h3a/Cb', 'Ca/H*b', 'H8/C*', 'H9', 'Z2a/Z*b', 'A*a/C*b', 'Ca/Cb/Cc/Cd/Ce', 'f', 'd', 'f*', 'd*',
    'C' . str_repeat('n', 250), 'C*' . str_repeat('n', 250), 'C' . str_repeat('1', 30), 'C05/C-0/C+5', 'C5/C7/C-3'] as $format) {
    foreach (['', 'a', 'abcd'] as $data) {
        unpacked($format, $data);
    }
}

// Formats of random elements.
mt_srand(1);

function one(string $of): string
{
    return $of[mt_rand(0, strlen($of) - 1)];
}

function noise(int $length): string
{
    $text = '';
    while ($length-- > 0) {
        $text .= one(BYTES . 'abcdef0123456789');
    }
    return $text;
}

for ($i = 0; $i < 400; $i++) {
    $format = '';
    $arguments = [];
    for ($n = mt_rand(1, 5); $n > 0; $n--) {
        $code = one(INTEGERS . FLOATS . TEXTS . DIGITS . 'xX@');
        $times = mt_rand(0, 3);
        $format .= $code . ($times === 1 && mt_rand(0, 1) ? '' : ($n === 1 && mt_rand(0, 4) === 0 ? '*' : $times));
        if (strpos(INTEGERS, $code) !== false) {
            while ($times-- > 0) {
                $arguments[] = mt_rand(0, 3) ? mt_rand(-70000, 70000) : (string) mt_rand();
            }
        } elseif (strpos(FLOATS, $code) !== false) {
            while ($times-- > 0) {
                $arguments[] = mt_rand(-1000, 1000) / 64;
            }
        } elseif (strpos(TEXTS, $code) !== false) {
            $arguments[] = noise(mt_rand(0, 6));
        } elseif (strpos(DIGITS, $code) !== false) {
            $arguments[] = substr(bin2hex(noise(4)), 0, mt_rand($times, 8));
        }
    }
    packed($format, ...$arguments);
    unpacked($format, noise(mt_rand(0, 24)));
}
for ($i = 0; $i < 400; $i++) {
    $elements = [];
    for ($n = mt_rand(1, 5); $n > 0; $n--) {
        $repeater = ['', '', '2', (string) mt_rand(0, 4), $n === 1 ? '*' : ''][mt_rand(0, 4)];
        $elements[] = one(INTEGERS . FLOATS . TEXTS . DIGITS . 'xX@') . $repeater . ['', 'a', 'b', '7x'][mt_rand(0, 3)];
    }
    unpacked(implode('/', $elements), noise(mt_rand(0, 24)));
}

$version = PHP_MAJOR_VERSION . '.' . PHP_MINOR_VERSION;
echo "{\"php\": \"$version\", \"cases\": [\n", implode(",\n", array_unique($lines)), "\n]}\n";

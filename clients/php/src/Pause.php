<?php

declare(strict_types=1);

namespace Connmix;

/** How long to wait after failures in a row: longer each time, and by chance, so that not all come back together. */
final class Pause
{
    /** In seconds. */
    public static function after(int $failures, float $first, float $longest): float
    {
        return min($first * 2 ** min($failures - 1, 16), $longest) * random_int(500, 1000) / 1000;
    }
}

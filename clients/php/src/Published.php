<?php

declare(strict_types=1);

namespace Connmix;

/** Whom a message reached: connections that took it, that could not, and nodes of a cluster that did not answer in time. */
final class Published
{
    public function __construct(
        public readonly int $reached,
        public readonly int $failed,
        public readonly int $unanswered = 0,
    ) {
    }
}

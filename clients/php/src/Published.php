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
        /** It was over the limit of its channel's rule. */
        public readonly bool $leftOut = false,
        /** Its place in a channel that keeps messages. */
        public readonly ?string $position = null,
        /** It was over the limit, and was added to others with the same key: it is not lost. */
        public readonly bool $merged = false,
    ) {
    }
}

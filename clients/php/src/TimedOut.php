<?php

declare(strict_types=1);

namespace Connmix;

/** There was no reply in time: what was asked for may have been done or not. */
final class TimedOut extends \RuntimeException
{
}

<?php

declare(strict_types=1);

namespace Connmix;

/** The engine's own no: the code is that of the server API's tables, such as 101 for a wrong argument. */
final class CallError extends \RuntimeException
{
}

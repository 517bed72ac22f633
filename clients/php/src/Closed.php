<?php

declare(strict_types=1);

namespace Connmix;

/** The connection has ended, or could not be made; the code is that of its close frame, 1006 where there was none. */
class Closed extends \RuntimeException
{
}

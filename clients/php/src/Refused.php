<?php

declare(strict_types=1);

namespace Connmix;

/** The engine's no to this caller; the code is the HTTP status. */
final class Refused extends Closed
{
}

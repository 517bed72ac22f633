<?php

declare(strict_types=1);

namespace Connmix;

/** The engine's no to this caller; the code is the HTTP status. From 500 on the publisher tries again: the engine stops, or a proxy finds none. */
final class Refused extends Closed
{
}

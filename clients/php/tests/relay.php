<?php

// php relay.php PORT TARGET: carries one connection after the other. On the first one that speaks, the reply to the second publish does
// not go through: the connection ends instead.

declare(strict_types=1);

$server = stream_socket_server("tcp://127.0.0.1:{$argv[1]}");
$cut = false;
while ($near = stream_socket_accept($server, -1)) {
    $far = stream_socket_client("tcp://127.0.0.1:{$argv[2]}");
    // From the engine: the handshake, then a frame for each reply.
    for ($replies = 0; true;) {
        $read = [$near, $far];
        $write = $except = null;
        stream_select($read, $write, $except, 60);
        foreach ($read as $from) {
            $data = fread($from, 65536);
            if ($data === '' || $data === false) {
                break 2;
            }
            if ($from === $far && !$cut && ++$replies === 3) {
                $cut = true;
                break 2;
            }
            fwrite($from === $near ? $far : $near, $data);
        }
    }
    fclose($near);
    fclose($far);
}

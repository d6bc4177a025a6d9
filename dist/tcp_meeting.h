// How ranks that know one address find each other over TCP.
#pragma once

#include <vector>

#include "dist/tcp_socket.h"
#include "dist/transport.h"

namespace plimsoll::tcp {

// A connection to every other rank, [rank]; the own entry stays empty. Rank 0 listens where all look for it. Every
// other rank listens on a port of its own, tells rank 0, gets the table of all and connects to those below it. Nobody
// sends before all are connected to all.
//
// A hello says who comes: strangers, other jobs and versions, ranks that are there already or do not exist are refused,
// told why, and reported through `launch.note`; the meeting goes on. Throws Error (75) at the deadline, naming the
// ranks that are missing; (78) or (75) if this process is refused.
std::vector<Socket> meet(const TcpLaunch& launch, Clock::time_point deadline);

}  // namespace plimsoll::tcp

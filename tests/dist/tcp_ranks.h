// Ranks over TCP in one process, for tests.
#pragma once

#include "dist/as_ranks.h"
#include "dist/tcp_socket.h"

namespace plimsoll {

// A port where nobody listened a moment ago.
inline int free_port() {
    return tcp::own_address(tcp::listen_everywhere(0)).port();
}

inline TcpLaunch launch_of(int rank, int ranks, int port, const std::string& host = "127.0.0.1") {
    TcpLaunch launch;
    launch.host = host, launch.port = port, launch.rank = rank, launch.ranks = ranks, launch.job = "test";
    launch.deadline = std::chrono::seconds(20);
    return launch;
}

inline void as_tcp_ranks(int size, const std::function<void(Communicator&)>& body,
                         const std::string& host = "127.0.0.1") {
    const int port = free_port();
    as_ranks(
        size, [&](int rank) { return tcp_transport(launch_of(rank, size, port, host)); }, body);
}

}  // namespace plimsoll

#include "train/subprocess.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "kernels/error.h"

namespace plimsoll {

FinishedProgram run_program(const std::vector<std::string>& words) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) fail_io("{}: no pipe to it could be made", words.front());
    const pid_t pid = ::fork();
    if (pid < 0) fail_io("{}: no process could be started", words.front());
    if (pid == 0) {
        ::dup2(ends[1], STDOUT_FILENO);
        become_program(words);
    }
    ::close(ends[1]);
    FinishedProgram done;
    char part[4096];
    for (ssize_t bytes; (bytes = ::read(ends[0], part, sizeof part)) > 0;)
        done.output.append(part, static_cast<size_t>(bytes));
    ::close(ends[0]);
    int status = 0;
    ::waitpid(pid, &status, 0);
    done.status = exit_status(status);
    return done;
}

void become_program(const std::vector<std::string>& words) {
    std::vector<char*> arguments;
    for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    ::execvp(arguments.front(), arguments.data());
    ::_exit(127);
}

int exit_status(int wait_status) {
    return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}

}  // namespace plimsoll

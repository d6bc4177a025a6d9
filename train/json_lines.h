// Files with a JSON object per line, to which several processes may append, and in which a crash may leave half a line.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace plimsoll {

// The whole objects, in order; what is none is passed over. Empty if the file cannot be read.
std::vector<nlohmann::json> read_json_lines(const std::string& path);
// The last of them; null without one. Reads only the end of the file.
nlohmann::json last_json_line(const std::string& path);

// Appends a line by one write at the end of the file, so that lines of processes that append at once do not mix, and
// flushes it to disk. Half a line that a crash left is closed first. Throws Error (74).
void append_json_line(const std::string& path, const nlohmann::json& line);

}  // namespace plimsoll

// CRC32C (Castagnoli polynomial, RFC 3720): the checksum of everything in a checkpoint.
#pragma once

#include <cstddef>
#include <cstdint>

namespace plimsoll {

// Of bytes, continued from `crc`.
uint32_t crc32c(const void* data, size_t size, uint32_t crc = 0);

// Of two texts one after the other, from the checksum of each and the second's length in bytes, without reading them.
uint32_t crc32c_combine(uint32_t first, uint32_t second, uint64_t second_size);

}  // namespace plimsoll

#include "train/crc32c.h"

#include <array>
#include <cstring>

namespace plimsoll {
namespace {

constexpr uint32_t kPolynomial = 0x82F63B78u;  // bit 31 is x^0

// Slicing-by-8: table[k][b] is the CRC of byte b followed by k zero bytes.
constexpr auto kTables = [] {
    std::array<std::array<uint32_t, 256>, 8> tables{};
    for (uint32_t byte = 0; byte < 256; ++byte) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? kPolynomial : 0u);
        tables[0][byte] = crc;
    }
    for (size_t k = 1; k < 8; ++k)
        for (size_t byte = 0; byte < 256; ++byte)
            tables[k][byte] = (tables[k - 1][byte] >> 8) ^ tables[0][tables[k - 1][byte] & 0xff];
    return tables;
}();

// a b modulo the polynomial.
uint32_t multiply(uint32_t a, uint32_t b) {
    uint32_t product = 0;
    for (uint32_t bit = 1u << 31; bit != 0; bit >>= 1) {
        if (a & bit) product ^= b;
        b = b & 1 ? (b >> 1) ^ kPolynomial : b >> 1;
    }
    return product;
}

}  // namespace

uint32_t crc32c(const void* data, size_t size, uint32_t crc) {
    const auto* bytes = static_cast<const unsigned char*>(data);
    crc = ~crc;
    for (; size >= 8; size -= 8, bytes += 8) {
        uint64_t word;
        std::memcpy(&word, bytes, 8);  // little-endian, as are the files
        word ^= crc;
        crc = 0;
        for (size_t k = 0; k < 8; ++k) crc ^= kTables[7 - k][(word >> (8 * k)) & 0xff];
    }
    for (; size > 0; --size, ++bytes) crc = (crc >> 8) ^ kTables[0][(crc ^ *bytes) & 0xff];
    return ~crc;
}

// Bytes that follow multiply the checksum of those before by x^8 each, and add their own.
uint32_t crc32c_combine(uint32_t first, uint32_t second, uint64_t second_size) {
    uint32_t shift = 1u << 31, power = 1u << 23;  // x^0, x^8
    for (; second_size > 0; second_size >>= 1) {
        if (second_size & 1) shift = multiply(shift, power);
        power = multiply(power, power);
    }
    return multiply(shift, first) ^ second;
}

}  // namespace plimsoll

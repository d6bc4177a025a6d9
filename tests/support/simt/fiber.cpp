#include "simt/fiber.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <new>

namespace simt {
namespace {

constexpr size_t kGuardBytes = 4096;

}  // namespace

FiberStacks::FiberStacks(size_t count) : bytes_(count * kStackBytes) {
    void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    memory_ = static_cast<uint8_t*>(memory);
    for (size_t i = 0; i < count; ++i) mprotect(memory_ + i * kStackBytes, kGuardBytes, PROT_NONE);
}

FiberStacks::~FiberStacks() {
    munmap(memory_, bytes_);
}

bool FiberStacks::contains(const void* address) const {
    return static_cast<size_t>(static_cast<const uint8_t*>(address) - memory_) < bytes_;
}

#if defined(__x86_64__)

// Saves what the System V ABI lets a function expect unchanged (six registers; the stack pointer says where they are).
asm(R"(
    .text
    .p2align 4
    .globl simt_switch
    .type simt_switch, @function
simt_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size simt_switch, .-simt_switch
)");
extern "C" void simt_switch(void** from, void* to);

FiberContext FiberStacks::prepare(size_t index, void (*entry)()) const {
    auto* top = reinterpret_cast<void**>(memory_ + (index + 1) * kStackBytes);
    *--top = nullptr;                         // a return address that is never used; keeps the stack aligned
    *--top = reinterpret_cast<void*>(entry);  // where `ret` goes
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    return top;
}

void switch_fiber(FiberContext& from, FiberContext to) {
    simt_switch(&from, to);
}

#else

// Any other machine: slower (a system call per switch), the same meaning. Contexts live at the top of their stacks.
FiberContext FiberStacks::prepare(size_t index, void (*entry)()) const {
    uint8_t* stack = memory_ + index * kStackBytes + kGuardBytes;
    const size_t usable = kStackBytes - kGuardBytes - sizeof(ucontext_t) - 64;
    auto* context = reinterpret_cast<ucontext_t*>(stack + usable);
    getcontext(context);
    context->uc_stack.ss_sp = stack;
    context->uc_stack.ss_size = usable & ~size_t{63};
    context->uc_link = nullptr;
    makecontext(context, entry, 0);
    return context;
}

void switch_fiber(FiberContext& from, FiberContext to) {
    static thread_local ucontext_t first;  // of the caller that is no fiber
    if (!from) from = &first;
    swapcontext(static_cast<ucontext_t*>(from), static_cast<ucontext_t*>(to));
}

#endif

}  // namespace simt

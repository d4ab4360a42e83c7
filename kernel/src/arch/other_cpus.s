# Where a CPU starts that the boot CPU has sent a start-up interrupt: in real mode, at offset 0 of a page at 0x8000.
# It enters 64-bit mode at once (Intel SDM volume 3, section 9.8.5: protection and paging may be set together when
# EFER.LME is set), loads what the boot CPU has left at offset 8, and goes on in the kernel. The code refers to itself by
# absolute addresses, so it runs in no other page.

.pushsection .rodata.other_cpus, "a"
.balign 16
.global other_cpu_start
other_cpu_start:
.code16
    jmp 1f
    .balign 8
    # Offset 8: root, stack, entry, index. The kernel writes them into the copy.
    .quad 0, 0, 0, 0
    # Offset 40: the descriptor table's limit and address; the table is at offset 48: nothing, 64-bit code.
    .word 15
    .long 0x8030
    .balign 8
    .quad 0
    .quad 0x00209a0000000000
1:
    cli
    cld
    xorw %ax, %ax
    movw %ax, %ds
    lgdtl 0x8028
    # Physical-address extension.
    movl %cr4, %eax
    orl $0x20, %eax
    movl %eax, %cr4
    movl 0x8008, %eax
    movl %eax, %cr3
    # EFER: long mode and no-execute, which the kernel's tables have.
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x900, %eax
    wrmsr
    # Paging and protection; caches on.
    movl %cr0, %eax
    andl $0x9fffffff, %eax
    orl $0x80000001, %eax
    movl %eax, %cr0
    ljmpl $8, $0x8100
    .org other_cpu_start + 0x100
.code64
    movq 0x8010, %rsp
    movq 0x8020, %rdi
    movq 0x8018, %rax
    xorl %ebp, %ebp
    # As if called: the stack is 8 off a 16-byte boundary at a function's entry.
    pushq $0
    jmpq *%rax
    # To the end of the page, which the assembler refuses if the code is longer.
    .org other_cpu_start + 4096
.popsection

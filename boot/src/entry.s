# PVH entry: 32-bit protected mode without paging, flat segments, interrupts off, EBX = physical address of
# hvm_start_info. Leaves in 64-bit mode at boot_main with the stage's own page tables:
#   0 .. 4 GiB              -> itself (2 MiB pages)
#   LINK_BASE .. + 1 GiB    -> 0 .. 1 GiB
# Symbols are linked at LINK_BASE + physical address; `symbol - LINK_BASE` is what runs before paging.

.set LINK_BASE, 0xffffffffc0000000
.set PTE, 0x3           # present, writable
.set PTE_LARGE, 0x83    # present, writable, page size
.set COM1, 0x3f8
.set DEBUG_EXIT, 0xf4

# The note by which QEMU finds the entry: name "Xen", type 18 (XEN_ELFNOTE_PHYS32_ENTRY), an 8-byte descriptor.
.section .note.pvh, "a", @note
.balign 4
    .long 4, 8, 18
    .asciz "Xen"
    .quad pvh_start - LINK_BASE

.section .entry, "ax"
.code32
.global pvh_start
pvh_start:
    cld
    mov esp, offset boot_stack_top - LINK_BASE

    # Long mode and no-execute must exist before their bits are touched.
    push ebx
    mov eax, 0x80000000
    cpuid
    cmp eax, 0x80000001
    jb no_long_mode
    mov eax, 0x80000001
    cpuid
    and edx, 0x20100000     # LM (29), NX (20)
    cmp edx, 0x20100000
    jne no_long_mode
    pop ebx

    mov eax, cr4
    or eax, 0xa0            # PAE | PGE
    mov cr4, eax
    mov eax, offset boot_pml4 - LINK_BASE
    mov cr3, eax
    mov ecx, 0xc0000080     # EFER
    rdmsr
    or eax, 0x901           # SCE | LME | NXE
    wrmsr
    mov eax, 0x80010033     # PG | WP | NE | ET | MP | PE
    mov cr0, eax
    lgdt [boot_gdt_pointer - LINK_BASE]
    push 0x8
    mov eax, offset long_mode - LINK_BASE
    push eax
    retf

# Prints the message by polling and leaves through the debug-exit device (0x12 = the boot stage failed).
no_long_mode:
    mov esi, offset no_long_mode_message - LINK_BASE
2:  mov dx, COM1 + 5
3:  in al, dx
    test al, 0x20
    jz 3b
    mov al, [esi]
    test al, al
    jz 4f
    mov dx, COM1
    out dx, al
    inc esi
    jmp 2b
4:  mov eax, 0x12
    mov dx, DEBUG_EXIT
    out dx, eax
5:  hlt
    jmp 5b

.code64
long_mode:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ss, eax
    movabs rsp, offset boot_stack_top
    xor ebp, ebp
    mov edi, ebx
    movabs rax, offset boot_main
    call rax
    ud2

.section .rodata.entry, "a"
no_long_mode_message:
    .asciz "boot: this CPU has no 64-bit mode or no NX bit\n"

.balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff    # 64-bit code
boot_gdt_end:
boot_gdt_pointer:
    .word boot_gdt_end - boot_gdt - 1
    .quad boot_gdt - LINK_BASE

.section .data.tables, "aw"
.balign 4096
boot_pml4:
    .quad boot_pdpt_low - LINK_BASE + PTE
    .fill 510, 8, 0
    .quad boot_pdpt_high - LINK_BASE + PTE
boot_pdpt_low:
    .quad boot_directories - LINK_BASE + PTE
    .quad boot_directories + 0x1000 - LINK_BASE + PTE
    .quad boot_directories + 0x2000 - LINK_BASE + PTE
    .quad boot_directories + 0x3000 - LINK_BASE + PTE
    .fill 508, 8, 0
boot_pdpt_high:
    .fill 511, 8, 0
    .quad boot_directories - LINK_BASE + PTE
boot_directories:
    .set page, 0
    .rept 2048
    .quad page + PTE_LARGE
    .set page, page + 0x200000
    .endr

.section .bss.stack, "aw", @nobits
.balign 4096
    .skip 0x10000
boot_stack_top:

.text

"""The language engine: many sequences through one decoder, token by token.

| module | |
|---|---|
| `sampling` | how one sequence draws its next token |
| `pages` | memory of keys and values, in pages of 16 positions with counts of who holds them |
| `prefix` | which pages hold which beginning of a text: what was computed once is not computed again |
| `page_kernel` | attention over pages, without padding |
| `forward` | one pass of a decoder over positions of any sequences |
| `openvino` | the same pass by OpenVINO, over the same pages |
| `sequence` | what is asked, what is told, and one sequence on its way |
| `line` | who waits, and what comes before whom |
| `engine` | who is in the next pass: joins, leaves, reads its prompt in chunks, gives way when pages run out |
| `alone` | the same for nets without pages, sequence by sequence |
| `speculate` | a small model guesses, the large one checks several guesses in one pass |
"""

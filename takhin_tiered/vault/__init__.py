"""The vault: what stands in the object store, and the only ways to change it.

A segment in the vault is its objects and a manifest, which is written last and commits them (`writer`). `proof` shows
that the store holds the very bytes. Whoever owns the prefix (`ownership`) gets an `OwnedPrefix`: nothing else writes to
the store or removes from it. Reading needs no ownership.
"""

"""Readers, built-in corpora, the catalog of public sets, the token store, batching."""

//! The rules of the house, held by tests: which room may use which, and that the documents name what is there.

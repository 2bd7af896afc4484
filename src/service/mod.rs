//! The domain: `App` and one function per verb; owns the transactions.

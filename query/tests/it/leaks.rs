//! The leaks known from elsewhere, each with canaries.

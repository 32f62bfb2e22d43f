//! Derived data products, topics and subscriptions

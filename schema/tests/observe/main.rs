//! What an operator looks at is made from the table of metrics, or held against it.

mod table;

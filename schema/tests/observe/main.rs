//! What an operator looks at is made from the table of metrics, or held against it: its page, the alerts, the dashboards.

mod alerts;
mod boards;
mod dashboards;
mod promql;
mod table;

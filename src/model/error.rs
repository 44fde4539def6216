//! Why a configuration is refused.

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not the JSON that we expect.
    #[error("the model configuration is not readable: {0}")]
    Json(#[from] serde_json::Error),
    /// A number that no model can have.
    #[error("the model configuration is impossible: {0}")]
    Invalid(String),
}

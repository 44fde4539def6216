//! Why a configuration is refused.

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not the JSON that we expect.
    #[error("cannot read the model configuration: {0}")]
    Json(#[from] serde_json::Error),
    /// A number that no model can have.
    #[error("invalid model configuration: {0}")]
    Invalid(String),
}

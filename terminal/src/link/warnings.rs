//! What a person should know of links and nobody else can tell: that a server which links need refuses this machine.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

type Listener = Arc<dyn Fn(String) + Send + Sync>;

/// Who is told. Clones share what was said: nothing is said twice, however many sockets and links it concerns.
#[derive(Clone, Default)]
pub struct Warnings {
    listener: Option<Listener>,
    said: Arc<Mutex<BTreeSet<String>>>,
}

impl std::fmt::Debug for Warnings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Warnings").field("said", &self.said).finish_non_exhaustive()
    }
}

impl Warnings {
    /// `listener` is called by the hub of the links, which it must not hold up.
    #[must_use]
    pub fn new(listener: impl Fn(String) + Send + Sync + 'static) -> Self {
        Self { listener: Some(Arc::new(listener)), said: Arc::default() }
    }

    pub(super) fn say(&self, text: String) {
        // Texts are made of what is configured and of what servers answer, so there are few.
        if self.said.lock().unwrap_or_else(PoisonError::into_inner).insert(text.clone()) {
            tracing::warn!("{text}");
            if let Some(listener) = &self.listener {
                listener(text);
            }
        }
    }
}

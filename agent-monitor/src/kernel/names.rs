//! The maps of names: who asks, where the resolver listens, what addresses stand for.
//!
//! Taken from the kernel side once, by the resolver, which must not wait for whoever reloads a profile.

use agent_monitor_common::name::{Asker, AskerKey, Named, NamedKey, Resolver};
use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, MapError};

use super::control::{AskerKeyPod, AskerPod, NamedKeyPod, NamedPod};
use super::loader::LoadError;

/// See the module.
pub struct NameMaps {
    askers: HashMap<MapData, AskerKeyPod, AskerPod>,
    named: Entries,
    resolver: Array<MapData, u64>,
}

/// What addresses stand for.
pub(super) type Entries = HashMap<MapData, NamedKeyPod, NamedPod>;

impl NameMaps {
    pub(super) fn take(object: &mut Ebpf) -> Result<Self, LoadError> {
        fn take(object: &mut Ebpf, name: &'static str) -> Result<Map, LoadError> {
            object.take_map(name).ok_or(LoadError::NoMap(name))
        }
        let askers = take(object, "ASKERS")?.try_into()?;
        Ok(NameMaps {
            askers,
            named: take(object, "NAMED")?.try_into()?,
            resolver: take(object, "RESOLVER")?.try_into()?,
        })
    }

    /// Who asks by this way.
    #[must_use]
    pub fn asker(&self, key: AskerKey) -> Option<Asker> {
        self.askers.get(&AskerKeyPod(key), 0).ok().map(|AskerPod(asker)| asker)
    }

    /// Where an earlier resolver listened; its sockets' peers know that port.
    #[must_use]
    pub fn resolver(&self) -> Resolver {
        Resolver::from_word(self.resolver.get(&0, 0).unwrap_or(0))
    }

    /// Tells the programs where the resolver listens.
    ///
    /// # Errors
    /// When the map can't be written.
    pub fn set_resolver(&mut self, resolver: Resolver) -> Result<(), MapError> {
        self.resolver.set(0, resolver.to_word(), 0)
    }

    /// What an address stands for now.
    #[must_use]
    pub fn named(&self, key: NamedKey) -> Option<Named> {
        self.named.get(&NamedKeyPod(key), 0).ok().map(|NamedPod(named)| named)
    }

    /// Says what an address stands for.
    ///
    /// # Errors
    /// When the map is full.
    pub fn set_named(&mut self, key: NamedKey, named: Named) -> Result<(), MapError> {
        self.named.insert(NamedKeyPod(key), NamedPod(named), 0)
    }

    /// The address stands for nothing any more.
    pub fn remove_named(&mut self, key: NamedKey) {
        // A missing entry is what we want.
        let _ = self.named.remove(&NamedKeyPod(key));
    }

    /// Everything that stands for a name.
    #[must_use]
    pub fn all_named(&self) -> Vec<(NamedKey, Named)> {
        self.named.iter().flatten().map(|(NamedKeyPod(key), NamedPod(named))| (key, named)).collect()
    }
}

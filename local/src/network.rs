//! Addresses for a mesh on loopback: a part of 127.0.0.0/8 that nobody else uses at the moment.

use std::net::{Ipv4Addr, TcpListener};

use rand::RngExt;

/// What an address is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Control = 1,
    /// Where a pod's proxy listens.
    Pod = 2,
    /// Where the application behind it listens.
    Application = 3,
    Service = 4,
    /// Clients outside of the mesh.
    Outside = 5,
}

/// 127.`part`.`role`.`number`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    part: u8,
}

impl Network {
    /// Takes a part that is free, as far as a listener can tell. `None` when all that were tried are
    /// taken.
    pub fn free() -> Option<(Self, TcpListener)> {
        let mut random = rand::rng();
        (0..32).find_map(|_| {
            let network = Self { part: random.random_range(64..=254) };
            // Held for as long as the mesh runs: it marks the part as taken.
            let mark = TcpListener::bind((network.address(Role::Control, 254), 15_999)).ok()?;
            Some((network, mark))
        })
    }

    pub fn address(self, role: Role, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.part, role as u8, number)
    }
}

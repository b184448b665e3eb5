//! Two identities of one pod, as one member of the mesh: what the CA is told is the older of the two, so
//! that no step of a rotation is taken before both have made the one before it.

use trellis_api::proto::ca::Holding;

/// `own`, but for what `beside` lags behind in. `issuing` is the anchor that certificates come from by now.
pub(super) fn older(mut own: Holding, beside: &Holding, issuing: &str) -> Holding {
    if beside.revision < own.revision {
        own.revision = beside.revision;
        own.anchors.clone_from(&beside.anchors);
    }
    // Where neither is of that anchor, both are to be renewed, and each of them is waited for in its turn.
    if beside.leaf_anchor != own.leaf_anchor && own.leaf_anchor == issuing {
        own.leaf_anchor.clone_from(&beside.leaf_anchor);
        own.leaf_not_after = beside.leaf_not_after;
        own.leaf_algorithm.clone_from(&beside.leaf_algorithm);
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(revision: u64, anchors: &str, leaf: &str) -> Holding {
        Holding {
            pod: "shop/web".to_owned(),
            revision,
            anchors: anchors.chars().map(String::from).collect(),
            leaf_anchor: leaf.to_owned(),
            draining: 3,
            ..Holding::default()
        }
    }

    #[test]
    fn the_member_is_as_old_as_the_older_of_its_identities() {
        // own, beside, what is issued from, and what is told
        for (own, beside, issuing, told) in [
            // The new anchor is being distributed.
            (holding(2, "on", "o"), holding(1, "o", "o"), "o", holding(1, "o", "o")),
            (holding(1, "o", "o"), holding(2, "on", "o"), "o", holding(1, "o", "o")),
            // Certificates are being renewed.
            (holding(3, "on", "n"), holding(3, "on", "o"), "n", holding(3, "on", "o")),
            (holding(3, "on", "o"), holding(3, "on", "n"), "n", holding(3, "on", "o")),
            (holding(3, "on", "n"), holding(3, "on", "n"), "n", holding(3, "on", "n")),
            // The rotation was taken back: the new one is the older.
            (holding(4, "on", "o"), holding(4, "on", "n"), "o", holding(4, "on", "n")),
            // The old anchor is being removed.
            (holding(5, "n", "n"), holding(4, "on", "n"), "n", holding(4, "on", "n")),
        ] {
            assert_eq!(older(own, &Holding { draining: 0, ..beside }, issuing), told);
        }
    }
}

//! The module and its sessions: opened when they are needed, given up when they fail, opened anew.

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    session::{Session, UserType},
    slot::Slot,
};
use parking_lot::{Mutex, RwLock};
use std::{mem, time::Duration};

use super::{
    TokenError, TokenSpec,
    desk::{Done, Work},
    object,
    pin::{Memory, Rejected, Written},
};

/// How long a new beginning waits for calls that are under way. One that hangs is not waited for.
const CALM: Duration = Duration::from_millis(500);

/// One module in this process. PKCS#11 knows no more than one state of it.
pub struct Module {
    spec: TokenSpec,
    /// Loaded once: unloading a library takes from under it what it left running.
    library: Mutex<Option<Pkcs11>>,
    /// Read by every call into the module, written by whoever begins anew.
    state: RwLock<Option<Ready>>,
    /// Sessions that nobody uses now.
    idle: Mutex<Vec<Session>>,
    /// One login at a time: a wrong PIN must be tried once, and not once by each thread.
    login: Mutex<Memory>,
}

struct Ready {
    context: Pkcs11,
    slot: Slot,
}

impl Module {
    pub fn new(spec: TokenSpec) -> Self {
        let (state, idle) = (RwLock::new(None), Mutex::new(Vec::new()));
        Self { spec, library: Mutex::default(), state, idle, login: Mutex::default() }
    }

    /// Does `work`, in a fresh session if an old one fails, and after a new beginning if that fails too.
    pub fn perform(&self, work: &Work) -> Result<Done, TokenError> {
        let mut last = None;
        for attempt in 0..3 {
            match self.attempt(work) {
                Err(Trouble::Lost(error)) => {
                    tracing::warn!(attempt, what = work.what(), %error, "the token lost a session");
                    self.idle.lock().clear();
                    if attempt > 0 && !self.begin_anew() {
                        return Err(error);
                    }
                    last = Some(error);
                }
                Err(Trouble::Said(error)) => return Err(error),
                Ok(done) => return Ok(done),
            }
        }
        Err(last.unwrap_or_else(|| TokenError::Setup("the token was not asked".to_owned())))
    }

    fn attempt(&self, work: &Work) -> Result<Done, Trouble> {
        self.begin()?;
        let state = self.state.read();
        let Some(ready) = &*state else {
            return Err(Trouble::Lost(TokenError::Setup("the module has just been closed".to_owned())));
        };
        let kept = self.idle.lock().pop();
        let session = match kept {
            Some(session) => session,
            None => self.open(ready)?,
        };
        let done = match work {
            Work::Look => object::look(&session, &ready.context, ready.slot).map(|()| Done::Looked),
            Work::Make { id, label, algorithm } => {
                object::make(&session, id, label, *algorithm).map(Done::Made)
            }
            Work::Sign { id, algorithm, message } => {
                object::sign(&session, id, *algorithm, message).map(Done::Signed)
            }
            Work::Destroy { id } => object::destroy(&session, id).map(|()| Done::Destroyed),
        };
        if !matches!(done, Err(Trouble::Lost(_))) {
            self.idle.lock().push(session);
        }
        done
    }

    /// Loads and initialises the module, and looks for the token, unless that was done.
    fn begin(&self) -> Result<(), Trouble> {
        if self.state.read().is_some() {
            return Ok(());
        }
        let mut state = self.state.try_write_for(CALM).ok_or(Trouble::Said(TokenError::Silent(CALM)))?;
        if state.is_some() {
            return Ok(());
        }
        let module = self.spec.module.display();
        let setup = |error: &dyn std::fmt::Display| {
            Trouble::Said(TokenError::Setup(format!(
                "token-module {module} cannot be used: {error}; give the path of a PKCS#11 library for this machine, \
                 with what it is linked to"
            )))
        };
        let mut library = self.library.lock();
        let context = match &*library {
            Some(context) => context.clone(),
            None => library.insert(Pkcs11::new(&self.spec.module).map_err(|error| setup(&error))?).clone(),
        };
        match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(setup(&error)),
        }
        match self.slot(&context) {
            Ok(slot) => {
                *state = Some(Ready { context, slot });
                Ok(())
            }
            Err(error) => {
                // Some modules look for tokens only when they are initialised.
                let _ = context.finalize();
                Err(Trouble::Said(error))
            }
        }
    }

    /// Closes everything, so that the next attempt begins anew. Not while a call is under way: closing
    /// would take its memory from under it.
    fn begin_anew(&self) -> bool {
        let Some(mut state) = self.state.try_write_for(CALM) else { return false };
        self.idle.lock().clear();
        if let Some(ready) = state.take()
            && let Err(error) = ready.context.finalize()
        {
            tracing::debug!(%error, "the module did not close in good order");
        }
        true
    }

    /// Closes everything for good. The library stays loaded, for what it left running.
    pub fn close(self) {
        self.begin_anew();
        mem::forget(self.library);
    }

    fn slot(&self, context: &Pkcs11) -> Result<Slot, TokenError> {
        let failed = |error: Error| TokenError::Failed { what: "list its slots", reason: error.to_string() };
        let (mut found, mut others) = (Vec::new(), Vec::new());
        for slot in context.get_slots_with_initialized_token().map_err(failed)? {
            let Ok(about) = context.get_token_info(slot) else { continue };
            match about.label().trim_end() == self.spec.label {
                true => found.push(slot),
                false => others.push(format!("{:?}", about.label().trim_end())),
            }
        }
        match found.as_slice() {
            [slot] => Ok(*slot),
            [] => {
                let found = if others.is_empty() { "none at all".to_owned() } else { others.join(", ") };
                Err(TokenError::Absent { label: self.spec.label.clone(), found })
            }
            several => Err(TokenError::Ambiguous(several.len(), self.spec.label.clone())),
        }
    }

    fn open(&self, ready: &Ready) -> Result<Session, Trouble> {
        let mut login = self.login.lock();
        let session = ready.context.open_rw_session(ready.slot).map_err(|error| trouble("open", error))?;
        let (label, file) = (self.spec.label.clone(), self.spec.pin_file.display().to_string());
        let rejected = |why| match why {
            Rejected::Refused => TokenError::PinRefused { label: label.clone(), file: file.clone() },
            Rejected::Locked => TokenError::PinLocked { label: label.clone(), file: file.clone() },
        };
        let pin = Written::read(&self.spec.pin_file)
            .map_err(|reason| Trouble::Said(TokenError::PinFile { file: file.clone(), reason }))?;
        if let Some(why) = login.forbids(&pin) {
            return Err(Trouble::Said(rejected(why)));
        }
        let why = match session.login(UserType::User, Some(&pin.pin())) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                login.accepted();
                return Ok(session);
            }
            Err(Error::Pkcs11(RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange, _)) => {
                Rejected::Refused
            }
            Err(Error::Pkcs11(RvError::PinLocked, _)) => Rejected::Locked,
            Err(error) => return Err(trouble("log in", error)),
        };
        login.rejected(pin, why);
        Err(Trouble::Said(rejected(why)))
    }
}

/// Whether a session, or all of them, may be the reason.
#[derive(Debug)]
pub enum Trouble {
    Lost(TokenError),
    Said(TokenError),
}

/// Sorts what the module said.
pub fn trouble(what: &'static str, error: Error) -> Trouble {
    let failed = TokenError::Failed { what, reason: error.to_string() };
    match error {
        Error::Pkcs11(
            RvError::SessionClosed
            | RvError::SessionHandleInvalid
            | RvError::SessionCount
            | RvError::UserNotLoggedIn
            | RvError::ObjectHandleInvalid
            | RvError::KeyHandleInvalid
            | RvError::OperationActive
            | RvError::CryptokiNotInitialized
            | RvError::SlotIdInvalid
            | RvError::TokenNotPresent
            | RvError::TokenNotRecognized
            | RvError::DeviceError
            | RvError::DeviceMemory
            | RvError::DeviceRemoved
            | RvError::GeneralError
            | RvError::FunctionFailed
            | RvError::HostMemory,
            _,
        ) => Trouble::Lost(failed),
        _ => Trouble::Said(failed),
    }
}

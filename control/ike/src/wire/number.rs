//! Numbers of the IANA registry "Internet Key Exchange Version 2 (IKEv2) Parameters", named as it names them.
//!
//! Every conversion is total: a number without a name here stays itself as `Unknown`.

/// Defines a registry: an enum with the known numbers and `Unknown`, conversions both ways, and `Display` with the
/// registry's name (`UNKNOWN(n)` for the rest).
///
/// A value always comes from `From`, so `Unknown` never holds a number that has a name; building one by hand breaks
/// equality and nothing else.
macro_rules! registry {
    (
        $(#[$meta:meta])*
        $name:ident: $number:ty {
            $($(#[$variant_meta:meta])* $variant:ident = $value:literal, $iana:literal;)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $($(#[$variant_meta])* #[doc = concat!($iana, ", ", stringify!($value), ".")] $variant,)+
            /// A number without a name here.
            Unknown($number),
        }

        impl $name {
            /// Every number with a name.
            pub const KNOWN: &'static [Self] = &[$(Self::$variant),+];

            /// The number on the wire.
            pub const fn number(self) -> $number {
                match self {
                    $(Self::$variant => $value,)+
                    Self::Unknown(number) => number,
                }
            }
        }

        impl From<$number> for $name {
            fn from(number: $number) -> Self {
                match number {
                    $($value => Self::$variant,)+
                    number => Self::Unknown(number),
                }
            }
        }

        impl From<$name> for $number {
            fn from(value: $name) -> $number {
                value.number()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    $(Self::$variant => f.write_str($iana),)+
                    Self::Unknown(number) => write!(f, "UNKNOWN({number})"),
                }
            }
        }
    };
}
pub(crate) use registry;

registry! {
    /// Exchange type (RFC 7296 section 3.1).
    ExchangeType: u8 {
        IkeSaInit = 34, "IKE_SA_INIT";
        IkeAuth = 35, "IKE_AUTH";
        CreateChildSa = 36, "CREATE_CHILD_SA";
        Informational = 37, "INFORMATIONAL";
        /// RFC 5723.
        IkeSessionResume = 38, "IKE_SESSION_RESUME";
        /// RFC 9242.
        IkeIntermediate = 43, "IKE_INTERMEDIATE";
        /// RFC 9370.
        IkeFollowupKe = 44, "IKE_FOLLOWUP_KE";
    }
}

registry! {
    /// Payload type (RFC 7296 section 3.2).
    PayloadType: u8 {
        /// No next payload.
        None = 0, "none";
        /// Security Association.
        Sa = 33, "SA";
        /// Key Exchange.
        Ke = 34, "KE";
        /// Identification of the initiator.
        IdI = 35, "IDi";
        /// Identification of the responder.
        IdR = 36, "IDr";
        /// Certificate.
        Cert = 37, "CERT";
        /// Certificate Request.
        CertReq = 38, "CERTREQ";
        /// Authentication.
        Auth = 39, "AUTH";
        /// Nonce.
        Nonce = 40, "Nonce";
        /// Notify.
        Notify = 41, "N";
        /// Delete.
        Delete = 42, "D";
        /// Vendor ID.
        Vendor = 43, "V";
        /// Traffic selectors of the initiator.
        TsI = 44, "TSi";
        /// Traffic selectors of the responder.
        TsR = 45, "TSr";
        /// Encrypted and Authenticated.
        Sk = 46, "SK";
        /// Configuration.
        Configuration = 47, "CP";
        /// Extensible Authentication.
        Eap = 48, "EAP";
        /// Encrypted and Authenticated Fragment (RFC 7383).
        Skf = 53, "SKF";
    }
}

impl PayloadType {
    /// The section of RFC 7296 that defines the layout (for SKF: the one of SK, which RFC 7383 extends).
    pub const fn section(self) -> &'static str {
        match self {
            PayloadType::None => "3.1",
            PayloadType::Sa => "3.3",
            PayloadType::Ke => "3.4",
            PayloadType::IdI | PayloadType::IdR => "3.5",
            PayloadType::Cert => "3.6",
            PayloadType::CertReq => "3.7",
            PayloadType::Auth => "3.8",
            PayloadType::Nonce => "3.9",
            PayloadType::Notify => "3.10",
            PayloadType::Delete => "3.11",
            PayloadType::Vendor => "3.12",
            PayloadType::TsI | PayloadType::TsR => "3.13",
            PayloadType::Sk | PayloadType::Skf => "3.14",
            PayloadType::Configuration => "3.15",
            PayloadType::Eap => "3.16",
            PayloadType::Unknown(_) => "3.2",
        }
    }
}

registry! {
    /// Security protocol identifier (RFC 7296 section 3.3.1).
    ProtocolId: u8 {
        /// No SA is meant.
        None = 0, "none";
        Ike = 1, "IKE";
        Ah = 2, "AH";
        Esp = 3, "ESP";
    }
}

registry! {
    /// Authentication method (RFC 7296 section 3.8).
    AuthMethod: u8 {
        RsaSignature = 1, "RSA Digital Signature";
        SharedKey = 2, "Shared Key Message Integrity Code";
        DssSignature = 3, "DSS Digital Signature";
        /// RFC 4754.
        EcdsaSha256P256 = 9, "ECDSA with SHA-256 on the P-256 curve";
        /// RFC 4754.
        EcdsaSha384P384 = 10, "ECDSA with SHA-384 on the P-384 curve";
        /// RFC 4754.
        EcdsaSha512P521 = 11, "ECDSA with SHA-512 on the P-521 curve";
        /// RFC 7619.
        Null = 13, "NULL Authentication";
        /// RFC 7427.
        DigitalSignature = 14, "Digital Signature";
    }
}

registry! {
    /// Certificate encoding (RFC 7296 section 3.6).
    CertEncoding: u8 {
        Pkcs7X509 = 1, "PKCS #7 wrapped X.509 certificate";
        Pgp = 2, "PGP Certificate";
        DnsSignedKey = 3, "DNS Signed Key";
        X509Signature = 4, "X.509 Certificate - Signature";
        Kerberos = 6, "Kerberos Token";
        Crl = 7, "Certificate Revocation List (CRL)";
        Arl = 8, "Authority Revocation List (ARL)";
        Spki = 9, "SPKI Certificate";
        X509Attribute = 10, "X.509 Certificate - Attribute";
        RawRsa = 11, "Raw RSA Key";
        HashAndUrlCertificate = 12, "Hash and URL of X.509 certificate";
        HashAndUrlBundle = 13, "Hash and URL of X.509 bundle";
        /// RFC 4806.
        OcspContent = 14, "OCSP Content";
        /// RFC 7670.
        RawPublicKey = 15, "Raw Public Key";
    }
}

registry! {
    /// Hash algorithm of SIGNATURE_HASH_ALGORITHMS (RFC 7427 section 4, RFC 8420).
    HashAlgorithm: u16 {
        Sha1 = 1, "SHA1";
        Sha2_256 = 2, "SHA2-256";
        Sha2_384 = 3, "SHA2-384";
        Sha2_512 = 4, "SHA2-512";
        Identity = 5, "Identity";
    }
}

registry! {
    /// Type of an identification (RFC 7296 section 3.5).
    IdType: u8 {
        Ipv4Addr = 1, "ID_IPV4_ADDR";
        Fqdn = 2, "ID_FQDN";
        Rfc822Addr = 3, "ID_RFC822_ADDR";
        Ipv6Addr = 5, "ID_IPV6_ADDR";
        DerAsn1Dn = 9, "ID_DER_ASN1_DN";
        DerAsn1Gn = 10, "ID_DER_ASN1_GN";
        KeyId = 11, "ID_KEY_ID";
        /// RFC 4595.
        FcName = 12, "ID_FC_NAME";
        /// RFC 7619.
        Null = 13, "ID_NULL";
    }
}

registry! {
    /// Type of a Configuration payload (RFC 7296 section 3.15).
    ConfigType: u8 {
        Request = 1, "CFG_REQUEST";
        Reply = 2, "CFG_REPLY";
        Set = 3, "CFG_SET";
        Ack = 4, "CFG_ACK";
    }
}

registry! {
    /// Type of a configuration attribute, 15 bits (RFC 7296 section 3.15.1).
    ConfigAttributeType: u16 {
        InternalIp4Address = 1, "INTERNAL_IP4_ADDRESS";
        InternalIp4Netmask = 2, "INTERNAL_IP4_NETMASK";
        InternalIp4Dns = 3, "INTERNAL_IP4_DNS";
        InternalIp4Nbns = 4, "INTERNAL_IP4_NBNS";
        InternalIp4Dhcp = 6, "INTERNAL_IP4_DHCP";
        ApplicationVersion = 7, "APPLICATION_VERSION";
        InternalIp6Address = 8, "INTERNAL_IP6_ADDRESS";
        InternalIp6Dns = 10, "INTERNAL_IP6_DNS";
        InternalIp6Dhcp = 12, "INTERNAL_IP6_DHCP";
        InternalIp4Subnet = 13, "INTERNAL_IP4_SUBNET";
        SupportedAttributes = 14, "SUPPORTED_ATTRIBUTES";
        InternalIp6Subnet = 15, "INTERNAL_IP6_SUBNET";
    }
}

registry! {
    /// Notify message type (RFC 7296 section 3.10.1): errors below 16384, status from there on.
    NotifyType: u16 {
        UnsupportedCriticalPayload = 1, "UNSUPPORTED_CRITICAL_PAYLOAD";
        InvalidIkeSpi = 4, "INVALID_IKE_SPI";
        InvalidMajorVersion = 5, "INVALID_MAJOR_VERSION";
        InvalidSyntax = 7, "INVALID_SYNTAX";
        InvalidMessageId = 9, "INVALID_MESSAGE_ID";
        InvalidSpi = 11, "INVALID_SPI";
        NoProposalChosen = 14, "NO_PROPOSAL_CHOSEN";
        InvalidKePayload = 17, "INVALID_KE_PAYLOAD";
        AuthenticationFailed = 24, "AUTHENTICATION_FAILED";
        SinglePairRequired = 34, "SINGLE_PAIR_REQUIRED";
        NoAdditionalSas = 35, "NO_ADDITIONAL_SAS";
        InternalAddressFailure = 36, "INTERNAL_ADDRESS_FAILURE";
        FailedCpRequired = 37, "FAILED_CP_REQUIRED";
        TsUnacceptable = 38, "TS_UNACCEPTABLE";
        InvalidSelectors = 39, "INVALID_SELECTORS";
        /// RFC 4555.
        UnacceptableAddresses = 40, "UNACCEPTABLE_ADDRESSES";
        /// RFC 4555.
        UnexpectedNatDetected = 41, "UNEXPECTED_NAT_DETECTED";
        TemporaryFailure = 43, "TEMPORARY_FAILURE";
        ChildSaNotFound = 44, "CHILD_SA_NOT_FOUND";
        /// RFC 9370.
        StateNotFound = 47, "STATE_NOT_FOUND";
        /// RFC 9611.
        TsMaxQueue = 48, "TS_MAX_QUEUE";
        InitialContact = 16384, "INITIAL_CONTACT";
        SetWindowSize = 16385, "SET_WINDOW_SIZE";
        AdditionalTsPossible = 16386, "ADDITIONAL_TS_POSSIBLE";
        IpcompSupported = 16387, "IPCOMP_SUPPORTED";
        NatDetectionSourceIp = 16388, "NAT_DETECTION_SOURCE_IP";
        NatDetectionDestinationIp = 16389, "NAT_DETECTION_DESTINATION_IP";
        Cookie = 16390, "COOKIE";
        UseTransportMode = 16391, "USE_TRANSPORT_MODE";
        HttpCertLookupSupported = 16392, "HTTP_CERT_LOOKUP_SUPPORTED";
        RekeySa = 16393, "REKEY_SA";
        EspTfcPaddingNotSupported = 16394, "ESP_TFC_PADDING_NOT_SUPPORTED";
        NonFirstFragmentsAlso = 16395, "NON_FIRST_FRAGMENTS_ALSO";
        /// RFC 4555.
        MobikeSupported = 16396, "MOBIKE_SUPPORTED";
        /// RFC 4555.
        AdditionalIp4Address = 16397, "ADDITIONAL_IP4_ADDRESS";
        /// RFC 4555.
        AdditionalIp6Address = 16398, "ADDITIONAL_IP6_ADDRESS";
        /// RFC 4555.
        NoAdditionalAddresses = 16399, "NO_ADDITIONAL_ADDRESSES";
        /// RFC 4555.
        UpdateSaAddresses = 16400, "UPDATE_SA_ADDRESSES";
        /// RFC 4555.
        Cookie2 = 16401, "COOKIE2";
        /// RFC 4555.
        NoNatsAllowed = 16402, "NO_NATS_ALLOWED";
        /// RFC 4478.
        AuthLifetime = 16403, "AUTH_LIFETIME";
        /// RFC 4739.
        MultipleAuthSupported = 16404, "MULTIPLE_AUTH_SUPPORTED";
        /// RFC 4739.
        AnotherAuthFollows = 16405, "ANOTHER_AUTH_FOLLOWS";
        /// RFC 5685.
        RedirectSupported = 16406, "REDIRECT_SUPPORTED";
        /// RFC 5685.
        Redirect = 16407, "REDIRECT";
        /// RFC 5685.
        RedirectedFrom = 16408, "REDIRECTED_FROM";
        /// RFC 5998.
        EapOnlyAuthentication = 16417, "EAP_ONLY_AUTHENTICATION";
        /// RFC 6023.
        ChildlessIkev2Supported = 16418, "CHILDLESS_IKEV2_SUPPORTED";
        /// RFC 6290.
        QuickCrashDetection = 16419, "QUICK_CRASH_DETECTION";
        /// RFC 7383.
        Ikev2FragmentationSupported = 16430, "IKEV2_FRAGMENTATION_SUPPORTED";
        /// RFC 7427.
        SignatureHashAlgorithms = 16431, "SIGNATURE_HASH_ALGORITHMS";
        /// RFC 8784.
        UsePpk = 16435, "USE_PPK";
        /// RFC 8784.
        PpkIdentity = 16436, "PPK_IDENTITY";
        /// RFC 8784.
        NoPpkAuth = 16437, "NO_PPK_AUTH";
        /// RFC 9242.
        IntermediateExchangeSupported = 16438, "INTERMEDIATE_EXCHANGE_SUPPORTED";
        /// RFC 9370.
        AdditionalKeyExchange = 16441, "ADDITIONAL_KEY_EXCHANGE";
        /// RFC 9347.
        UseAggfrag = 16442, "USE_AGGFRAG";
        /// RFC 9593.
        SupportedAuthMethods = 16443, "SUPPORTED_AUTH_METHODS";
        /// RFC 9611.
        SaResourceInfo = 16444, "SA_RESOURCE_INFO";
    }
}

impl NotifyType {
    /// Whether it reports an error: an unknown error means that the request has failed, an unknown status means
    /// nothing (RFC 7296 section 3.10.1).
    pub const fn is_error(self) -> bool {
        self.number() < 16384
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_both_ways() {
        for number in 0..=u8::MAX {
            assert_eq!(PayloadType::from(number).number(), number);
            assert_eq!(ExchangeType::from(number).number(), number);
            assert_eq!(CertEncoding::from(number).number(), number);
        }
        for number in 0..=u16::MAX {
            assert_eq!(NotifyType::from(number).number(), number);
        }
        for &known in NotifyType::KNOWN {
            assert_eq!(NotifyType::from(known.number()), known);
            assert!(!known.to_string().starts_with("UNKNOWN"));
        }
    }

    #[test]
    fn errors_are_below_16384() {
        assert!(NotifyType::StateNotFound.is_error());
        assert!(NotifyType::TsMaxQueue.is_error() && !NotifyType::SaResourceInfo.is_error());
        assert!(NotifyType::from(16383).is_error());
        assert!(!NotifyType::InitialContact.is_error());
        assert_eq!(NotifyType::from(40969).to_string(), "UNKNOWN(40969)");
    }
}

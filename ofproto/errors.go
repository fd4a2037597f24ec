package ofproto

import "fmt"

// ErrorType is the kind of an error (§7.4.4, enum ofp_error_type).
type ErrorType uint16

// Error types.
const (
	ErrorHelloFailed         ErrorType = 0
	ErrorBadRequest          ErrorType = 1
	ErrorBadAction           ErrorType = 2
	ErrorBadInstruction      ErrorType = 3
	ErrorBadMatch            ErrorType = 4
	ErrorFlowModFailed       ErrorType = 5
	ErrorGroupModFailed      ErrorType = 6
	ErrorPortModFailed       ErrorType = 7
	ErrorTableModFailed      ErrorType = 8
	ErrorQueueOpFailed       ErrorType = 9
	ErrorSwitchConfigFailed  ErrorType = 10
	ErrorRoleRequestFailed   ErrorType = 11
	ErrorMeterModFailed      ErrorType = 12
	ErrorTableFeaturesFailed ErrorType = 13
	ErrorExperimenter        ErrorType = 0xffff
)

// Codes that callers branch on. Each counts with its ErrorType only.
const (
	CodeHelloIncompatible uint16 = 0 // ErrorHelloFailed

	CodeBadVersion   uint16 = 0  // ErrorBadRequest
	CodeBadType      uint16 = 1  // ErrorBadRequest
	CodeBadMultipart uint16 = 2  // ErrorBadRequest
	CodeBadLen       uint16 = 6  // ErrorBadRequest
	CodeIsSlave      uint16 = 10 // ErrorBadRequest

	CodeBadOutGroup uint16 = 9 // ErrorBadAction

	CodeTableFull uint16 = 1 // ErrorFlowModFailed
	CodeOverlap   uint16 = 3 // ErrorFlowModFailed

	CodeGroupExists  uint16 = 0  // ErrorGroupModFailed
	CodeOutOfGroups  uint16 = 3  // ErrorGroupModFailed
	CodeOutOfBuckets uint16 = 4  // ErrorGroupModFailed
	CodeUnknownGroup uint16 = 8  // ErrorGroupModFailed
	CodeBadWatch     uint16 = 13 // ErrorGroupModFailed

	CodeInvalidMeter uint16 = 2 // ErrorMeterModFailed
	CodeUnknownMeter uint16 = 3 // ErrorMeterModFailed

	CodeRoleStale uint16 = 0 // ErrorRoleRequestFailed
	CodeRoleUnsup uint16 = 1 // ErrorRoleRequestFailed
)

// Error says that a message failed; its xid is that message's (§7.4.4). It is a
// Message and a Go error.
type Error struct {
	Type         ErrorType
	Code         uint16 // with ErrorExperimenter: the experimenter's own type
	Experimenter uint32 // with ErrorExperimenter only
	Data         []byte // at least 64 bytes of the message that failed; ASCII text with ErrorHelloFailed
}

// MessageType implements Message.
func (*Error) MessageType() MessageType { return TypeError }

func (m *Error) appendBody(b []byte) []byte {
	b = be.AppendUint16(b, uint16(m.Type))
	b = be.AppendUint16(b, m.Code)
	if m.Type == ErrorExperimenter {
		b = be.AppendUint32(b, m.Experimenter)
	}
	return append(b, m.Data...)
}

func (m *Error) parse(b []byte) error {
	if err := atLeast("body", b, 4); err != nil {
		return err
	}
	e := Error{Type: ErrorType(be.Uint16(b)), Code: be.Uint16(b[2:])}
	b = b[4:]
	if e.Type == ErrorExperimenter {
		if len(b) < 4 {
			return fail("body", 4+len(b), ErrTruncated)
		}
		e.Experimenter, b = be.Uint32(b), b[4:]
	}
	e.Data = clip(b)
	*m = e
	return nil
}

// Error implements error: "switch error OFPFMFC_TABLE_FULL".
func (m *Error) Error() string { return "switch error " + m.Name() }

// errorNames are the names of one type: the prefix that all its codes have, and the codes.
type errorNames struct {
	Type   string
	Prefix string
	Codes  []string
}

// errorTable is the one place where the names of errors are kept (§7.4.4).
var errorTable = [...]errorNames{
	ErrorHelloFailed: {"OFPET_HELLO_FAILED", "OFPHFC_", []string{"INCOMPATIBLE", "EPERM"}},
	ErrorBadRequest: {"OFPET_BAD_REQUEST", "OFPBRC_", []string{
		"BAD_VERSION", "BAD_TYPE", "BAD_MULTIPART", "BAD_EXPERIMENTER", "BAD_EXP_TYPE", "EPERM", "BAD_LEN",
		"BUFFER_EMPTY", "BUFFER_UNKNOWN", "BAD_TABLE_ID", "IS_SLAVE", "BAD_PORT", "BAD_PACKET",
		"MULTIPART_BUFFER_OVERFLOW",
	}},
	ErrorBadAction: {"OFPET_BAD_ACTION", "OFPBAC_", []string{
		"BAD_TYPE", "BAD_LEN", "BAD_EXPERIMENTER", "BAD_EXP_TYPE", "BAD_OUT_PORT", "BAD_ARGUMENT", "EPERM",
		"TOO_MANY", "BAD_QUEUE", "BAD_OUT_GROUP", "MATCH_INCONSISTENT", "UNSUPPORTED_ORDER", "BAD_TAG",
		"BAD_SET_TYPE", "BAD_SET_LEN", "BAD_SET_ARGUMENT",
	}},
	ErrorBadInstruction: {"OFPET_BAD_INSTRUCTION", "OFPBIC_", []string{
		"UNKNOWN_INST", "UNSUP_INST", "BAD_TABLE_ID", "UNSUP_METADATA", "UNSUP_METADATA_MASK",
		"BAD_EXPERIMENTER", "BAD_EXP_TYPE", "BAD_LEN", "EPERM",
	}},
	ErrorBadMatch: {"OFPET_BAD_MATCH", "OFPBMC_", []string{
		"BAD_TYPE", "BAD_LEN", "BAD_TAG", "BAD_DL_ADDR_MASK", "BAD_NW_ADDR_MASK", "BAD_WILDCARDS", "BAD_FIELD",
		"BAD_VALUE", "BAD_MASK", "BAD_PREREQ", "DUP_FIELD", "EPERM",
	}},
	ErrorFlowModFailed: {"OFPET_FLOW_MOD_FAILED", "OFPFMFC_", []string{
		"UNKNOWN", "TABLE_FULL", "BAD_TABLE_ID", "OVERLAP", "EPERM", "BAD_TIMEOUT", "BAD_COMMAND", "BAD_FLAGS",
	}},
	ErrorGroupModFailed: {"OFPET_GROUP_MOD_FAILED", "OFPGMFC_", []string{
		"GROUP_EXISTS", "INVALID_GROUP", "WEIGHT_UNSUPPORTED", "OUT_OF_GROUPS", "OUT_OF_BUCKETS",
		"CHAINING_UNSUPPORTED", "WATCH_UNSUPPORTED", "LOOP", "UNKNOWN_GROUP", "CHAINED_GROUP", "BAD_TYPE",
		"BAD_COMMAND", "BAD_BUCKET", "BAD_WATCH", "EPERM",
	}},
	ErrorPortModFailed: {"OFPET_PORT_MOD_FAILED", "OFPPMFC_", []string{
		"BAD_PORT", "BAD_HW_ADDR", "BAD_CONFIG", "BAD_ADVERTISE", "EPERM",
	}},
	ErrorTableModFailed: {"OFPET_TABLE_MOD_FAILED", "OFPTMFC_", []string{"BAD_TABLE", "BAD_CONFIG", "EPERM"}},
	ErrorQueueOpFailed:  {"OFPET_QUEUE_OP_FAILED", "OFPQOFC_", []string{"BAD_PORT", "BAD_QUEUE", "EPERM"}},
	ErrorSwitchConfigFailed: {"OFPET_SWITCH_CONFIG_FAILED", "OFPSCFC_", []string{
		"BAD_FLAGS", "BAD_LEN", "EPERM",
	}},
	ErrorRoleRequestFailed: {"OFPET_ROLE_REQUEST_FAILED", "OFPRRFC_", []string{"STALE", "UNSUP", "BAD_ROLE"}},
	ErrorMeterModFailed: {"OFPET_METER_MOD_FAILED", "OFPMMFC_", []string{
		"UNKNOWN", "METER_EXISTS", "INVALID_METER", "UNKNOWN_METER", "BAD_COMMAND", "BAD_FLAGS", "BAD_RATE",
		"BAD_BURST", "BAD_BAND", "BAD_BAND_VALUE", "OUT_OF_METERS", "OUT_OF_BANDS",
	}},
	ErrorTableFeaturesFailed: {"OFPET_TABLE_FEATURES_FAILED", "OFPTFFC_", []string{
		"BAD_TABLE", "BAD_METADATA", "BAD_TYPE", "BAD_LEN", "BAD_ARGUMENT", "EPERM",
	}},
}

// bundleErrors are the ONF's experimenter errors from 2300 on (extension 230).
var bundleErrors = []string{
	"UNKNOWN", "EPERM", "BAD_ID", "BUNDLE_EXIST", "BUNDLE_CLOSED", "OUT_OF_BUNDLES", "BAD_TYPE", "BAD_FLAGS",
	"MSG_BAD_LEN", "MSG_BAD_XID", "MSG_UNSUP", "MSG_CONFLICT", "MSG_TOO_MANY", "MSG_FAILED", "TIMEOUT",
	"BUNDLE_IN_PROGRESS",
}

// experimenterError is an error of an experimenter that is not a bundle's.
type experimenterError struct {
	Experimenter uint32
	Code         uint16
}

var experimenterErrors = map[experimenterError]string{
	{ExperimenterONF, 2360}:  "OFPFMFC_BAD_PRIORITY",
	{ExperimenterONF, 2370}:  "OFPACFC_INVALID",
	{ExperimenterONF, 2371}:  "OFPACFC_UNSUPPORTED",
	{ExperimenterONF, 2372}:  "OFPACFC_EPERM",
	{ExperimenterONF, 2600}:  "OFPBIC_DUP_INST",
	{ExperimenterONF, 2640}:  "OFPBRC_MULTIPART_REQUEST_TIMEOUT",
	{ExperimenterONF, 2641}:  "OFPBRC_MULTIPART_REPLY_TIMEOUT",
	{ExperimenterONF, 4250}:  "OFPBAC_BAD_SET_MASK",
	{ExperimenterNicira, 2}:  "NXBRC_NXM_INVALID",
	{ExperimenterNicira, 3}:  "NXBRC_NXM_BAD_TYPE",
	{ExperimenterNicira, 4}:  "NXBRC_MUST_BE_ZERO",
	{ExperimenterNicira, 5}:  "NXBRC_BAD_REASON",
	{ExperimenterNicira, 6}:  "OFPMOFC_MONITOR_EXISTS",
	{ExperimenterNicira, 7}:  "OFPMOFC_BAD_FLAGS",
	{ExperimenterNicira, 8}:  "OFPMOFC_UNKNOWN_MONITOR",
	{ExperimenterNicira, 9}:  "NXBRC_FM_BAD_EVENT",
	{ExperimenterNicira, 10}: "NXBRC_UNENCODABLE_ERROR",
	{ExperimenterNicira, 11}: "NXBAC_MUST_BE_ZERO",
	{ExperimenterNicira, 12}: "NXFMFC_HARDWARE",
	{ExperimenterNicira, 13}: "NXFMFC_BAD_TABLE_ID",
	{ExperimenterNicira, 15}: "NXBAC_BAD_CONJUNCTION",
	{ExperimenterNicira, 39}: "NXBAC_BAD_HEADER_TYPE",
	{ExperimenterNicira, 40}: "NXBAC_UNKNOWN_ED_PROP",
	{ExperimenterNicira, 41}: "NXBAC_BAD_ED_PROP",
	{ExperimenterNicira, 42}: "NXBAC_CT_DATAPATH_SUPPORT",
	{ExperimenterNicira, 43}: "NXBMC_CT_DATAPATH_SUPPORT",
	{ExperimenterNicira, 44}: "NXTFFC_DUP_TABLE",
}

// String returns the type's name: "OFPET_FLOW_MOD_FAILED".
func (t ErrorType) String() string {
	if int(t) < len(errorTable) {
		return errorTable[t].Type
	}
	if t == ErrorExperimenter {
		return "OFPET_EXPERIMENTER"
	}
	return fmt.Sprintf("OFPET_%d", uint16(t))
}

// Name returns the name of type and code: "OFPFMFC_TABLE_FULL". One that is not
// known is the type's name and the number.
func (m *Error) Name() string {
	if m.Type == ErrorExperimenter {
		if i := int(m.Code) - bundleControlType; m.Experimenter == ExperimenterONF && i >= 0 && i < len(bundleErrors) {
			return "OFPBFC_" + bundleErrors[i]
		}
		if name, ok := experimenterErrors[experimenterError{m.Experimenter, m.Code}]; ok {
			return name
		}
		return fmt.Sprintf("%v(%#08x,%d)", m.Type, m.Experimenter, m.Code)
	}
	if int(m.Type) < len(errorTable) {
		if e := errorTable[m.Type]; int(m.Code) < len(e.Codes) {
			return e.Prefix + e.Codes[m.Code]
		}
	}
	return fmt.Sprintf("%v(%d)", m.Type, m.Code)
}

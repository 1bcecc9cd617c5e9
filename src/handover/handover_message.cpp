#include "handover/handover_message.hpp"

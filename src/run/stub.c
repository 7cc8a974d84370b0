#include "run/control.h"
void control_explain(struct control_req *q){control_end(q,1,"not yet");}
void control_doctor(struct control_req *q){control_end(q,1,"not yet");}
void control_dlq(struct control_req *q){control_end(q,1,"not yet");}

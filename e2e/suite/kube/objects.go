package kube

// The few fields of Kubernetes objects that the suite looks at.

import "time"

// Meta is an object's metadata.
type Meta struct {
	Name              string            `json:"name"`
	Namespace         string            `json:"namespace"`
	UID               string            `json:"uid"`
	ResourceVersion   string            `json:"resourceVersion"`
	Generation        int64             `json:"generation"`
	Labels            map[string]string `json:"labels"`
	Annotations       map[string]string `json:"annotations"`
	DeletionTimestamp *time.Time        `json:"deletionTimestamp"`
}

// List of objects.
type List[T any] struct {
	Items []T `json:"items"`
}

// Object is any object of which only the metadata matters.
type Object struct {
	Kind     string `json:"kind"`
	Metadata Meta   `json:"metadata"`
}

// Pod is a pod.
type Pod struct {
	Metadata Meta `json:"metadata"`
	Spec     struct {
		NodeName           string      `json:"nodeName"`
		ServiceAccountName string      `json:"serviceAccountName"`
		HostNetwork        bool        `json:"hostNetwork"`
		InitContainers     []Container `json:"initContainers"`
		Containers         []Container `json:"containers"`
		Volumes            []Volume    `json:"volumes"`
	} `json:"spec"`
	Status struct {
		Phase  string `json:"phase"`
		PodIP  string `json:"podIP"`
		PodIPs []struct {
			IP string `json:"ip"`
		} `json:"podIPs"`
		Conditions            []Condition       `json:"conditions"`
		InitContainerStatuses []ContainerStatus `json:"initContainerStatuses"`
		ContainerStatuses     []ContainerStatus `json:"containerStatuses"`
	} `json:"status"`
}

// Volume of a pod, as far as the suite asks.
type Volume struct {
	Name   string `json:"name"`
	Secret *struct {
		SecretName string `json:"secretName"`
	} `json:"secret"`
}

// Container of a pod's specification.
type Container struct {
	Name          string   `json:"name"`
	Image         string   `json:"image"`
	Args          []string `json:"args"`
	RestartPolicy string   `json:"restartPolicy"`
	VolumeMounts  []struct {
		Name      string `json:"name"`
		MountPath string `json:"mountPath"`
		ReadOnly  bool   `json:"readOnly"`
	} `json:"volumeMounts"`
}

// ContainerStatus says how a container fares.
type ContainerStatus struct {
	Name         string `json:"name"`
	Ready        bool   `json:"ready"`
	Started      *bool  `json:"started"`
	RestartCount int    `json:"restartCount"`
	State        struct {
		Running *struct {
			StartedAt time.Time `json:"startedAt"`
		} `json:"running"`
		Waiting *struct {
			Reason string `json:"reason"`
		} `json:"waiting"`
		Terminated *struct {
			ExitCode  int       `json:"exitCode"`
			StartedAt time.Time `json:"startedAt"`
		} `json:"terminated"`
	} `json:"state"`
}

// Condition of an object's status.
type Condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// Ready tells whether the pod's Ready condition holds.
func (p *Pod) Ready() bool {
	for _, condition := range p.Status.Conditions {
		if condition.Type == "Ready" {
			return condition.Status == "True"
		}
	}
	return false
}

// Address returns the pod's address of one family: 4 or 6; "" where it has none.
func (p *Pod) Address(family int) string {
	for _, address := range p.Status.PodIPs {
		if isSix(address.IP) == (family == 6) {
			return address.IP
		}
	}
	return ""
}

// Init returns the init container of that name, or nil.
func (p *Pod) Init(name string) *Container {
	for i := range p.Spec.InitContainers {
		if p.Spec.InitContainers[i].Name == name {
			return &p.Spec.InitContainers[i]
		}
	}
	return nil
}

// Service is a service.
type Service struct {
	Metadata Meta `json:"metadata"`
	Spec     struct {
		ClusterIPs []string `json:"clusterIPs"`
	} `json:"spec"`
}

// Address returns the service's cluster address of one family.
func (s *Service) Address(family int) string {
	for _, address := range s.Spec.ClusterIPs {
		if isSix(address) == (family == 6) {
			return address
		}
	}
	return ""
}

// Secret is a secret; its values are what encoding/json makes of base64.
type Secret struct {
	Metadata Meta              `json:"metadata"`
	Type     string            `json:"type"`
	Data     map[string][]byte `json:"data"`
}

// ConfigMap is a configuration map.
type ConfigMap struct {
	Metadata   Meta              `json:"metadata"`
	Data       map[string]string `json:"data"`
	BinaryData map[string][]byte `json:"binaryData"`
}

// Event is something that happened to an object.
type Event struct {
	Reason         string `json:"reason"`
	Message        string `json:"message"`
	Type           string `json:"type"`
	InvolvedObject struct {
		Kind string `json:"kind"`
		Name string `json:"name"`
	} `json:"involvedObject"`
}

func isSix(address string) bool {
	for _, c := range address {
		if c == ':' {
			return true
		}
	}
	return false
}

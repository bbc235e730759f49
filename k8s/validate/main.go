// Command validate checks manifests as kube-apiserver does, without one: strict decoding and defaults, the API groups'
// own validation, and Pod Security admission at the level `restricted`. It reads files of YAML documents, prints an
// error a line, and exits with 1 if there is any. Kinds of groups that operators define are left to tests/k8s.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/apps"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	appsvalidation "k8s.io/kubernetes/pkg/apis/apps/validation"
	"k8s.io/kubernetes/pkg/apis/autoscaling"
	_ "k8s.io/kubernetes/pkg/apis/autoscaling/install"
	autoscalingvalidation "k8s.io/kubernetes/pkg/apis/autoscaling/validation"
	"k8s.io/kubernetes/pkg/apis/batch"
	_ "k8s.io/kubernetes/pkg/apis/batch/install"
	batchvalidation "k8s.io/kubernetes/pkg/apis/batch/validation"
	"k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/kubernetes/pkg/apis/networking"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	networkingvalidation "k8s.io/kubernetes/pkg/apis/networking/validation"
	"k8s.io/kubernetes/pkg/apis/policy"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
	policyvalidation "k8s.io/kubernetes/pkg/apis/policy/validation"
	"k8s.io/kubernetes/pkg/apis/rbac"
	_ "k8s.io/kubernetes/pkg/apis/rbac/install"
	rbacvalidation "k8s.io/kubernetes/pkg/apis/rbac/validation"
	"k8s.io/kubernetes/pkg/apis/scheduling"
	_ "k8s.io/kubernetes/pkg/apis/scheduling/install"
	schedulingvalidation "k8s.io/kubernetes/pkg/apis/scheduling/validation"
	"k8s.io/pod-security-admission/api"
	podsecurity "k8s.io/pod-security-admission/policy"
)

var decoder = serializer.NewCodecFactory(legacyscheme.Scheme, serializer.EnableStrict).UniversalDeserializer()

func main() {
	failed := false
	for _, name := range os.Args[1:] {
		found, err := checkFile(name)
		if err != nil {
			found = append(found, err)
		}
		for _, each := range found {
			fmt.Printf("%s: %v\n", name, each)
		}
		failed = failed || len(found) > 0
	}
	if failed {
		os.Exit(1)
	}
}

func checkFile(name string) ([]error, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var found []error
	for documents := utilyaml.NewYAMLReader(bufio.NewReader(file)); ; {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return found, nil
		}
		if err != nil {
			return found, err
		}
		if len(bytes.TrimSpace(document)) > 0 {
			found = append(found, check(document)...)
		}
	}
}

// check returns what is wrong with one manifest.
func check(document []byte) []error {
	content, err := utilyaml.ToJSON(document)
	if err != nil {
		return []error{err}
	}
	kind, err := json.DefaultMetaFactory.Interpret(content)
	if err != nil {
		return []error{err}
	}
	if !legacyscheme.Scheme.IsGroupRegistered(kind.Group) {
		return nil // an operator's
	}
	object, _, err := decoder.Decode(content, nil, nil)
	if err != nil {
		return []error{fmt.Errorf("%s: %w", kind, err)}
	}
	accessor, err := meta.Accessor(object)
	if err != nil {
		return []error{err}
	}
	found := security(object)
	namespace := accessor.GetNamespace()
	legacyscheme.Scheme.Default(object)
	internal, err := legacyscheme.Scheme.UnsafeConvertToVersion(object, schema.GroupVersion{Group: kind.Group, Version: runtime.APIVersionInternal})
	if err != nil {
		return append(found, err)
	}
	complete(internal)
	for _, each := range validate(internal) {
		found = append(found, each)
	}
	for index, each := range found {
		found[index] = fmt.Errorf("%s %s/%s: %w", kind.Kind, namespace, accessor.GetName(), each)
	}
	return found
}

// security applies Pod Security admission to the pods that an object makes.
func security(object runtime.Object) []error {
	var pod *corev1.PodTemplateSpec
	switch object := object.(type) {
	case *appsv1.Deployment:
		pod = &object.Spec.Template
	case *batchv1.Job:
		pod = &object.Spec.Template
	default:
		return nil
	}
	evaluator, err := podsecurity.NewEvaluator(podsecurity.DefaultChecks(), nil)
	if err != nil {
		return []error{err}
	}
	restricted := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	result := podsecurity.AggregateCheckResults(evaluator.EvaluatePod(restricted, &pod.ObjectMeta, &pod.Spec))
	if !result.Allowed {
		return []error{fmt.Errorf("violates Pod Security `restricted`: %s", result.ForbiddenDetail())}
	}
	return nil
}

// complete sets what the API server sets before it validates.
func complete(object runtime.Object) {
	switch object := object.(type) {
	case *batch.Job:
		object.UID = "validated"
		object.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{batch.LegacyControllerUidLabel: "validated"}}
		maps.Copy(object.Spec.Template.Labels, map[string]string{
			batch.JobNameLabel: object.Name, batch.LegacyJobNameLabel: object.Name,
			batch.ControllerUidLabel: "validated", batch.LegacyControllerUidLabel: "validated",
		})
	case *core.Service:
		if object.Spec.ClusterIP != "" {
			object.Spec.ClusterIPs = []string{object.Spec.ClusterIP}
		}
	}
}

// validate applies the API group's validation to an object in its internal version.
func validate(object runtime.Object) field.ErrorList {
	switch object := object.(type) {
	case *apps.Deployment:
		return appsvalidation.ValidateDeployment(object, podutil.GetValidationOptionsFromPodTemplate(&object.Spec.Template, nil))
	case *autoscaling.HorizontalPodAutoscaler:
		options := autoscalingvalidation.HorizontalPodAutoscalerSpecValidationOptions{MinReplicasLowerBound: 1}
		return autoscalingvalidation.ValidateHorizontalPodAutoscaler(object, options)
	case *batch.Job:
		options := batchvalidation.JobValidationOptions{
			PodValidationOptions: podutil.GetValidationOptionsFromPodTemplate(&object.Spec.Template, nil),
		}
		return batchvalidation.ValidateJob(object, options)
	case *core.ConfigMap:
		return corevalidation.ValidateConfigMap(object)
	case *core.Namespace:
		return corevalidation.ValidateNamespace(object)
	case *core.PersistentVolumeClaim:
		return corevalidation.ValidatePersistentVolumeClaim(object, corevalidation.ValidationOptionsForPersistentVolumeClaimCreate())
	case *core.Secret:
		return corevalidation.ValidateSecret(object)
	case *core.Service:
		return corevalidation.ValidateServiceCreate(object)
	case *core.ServiceAccount:
		return corevalidation.ValidateServiceAccount(object)
	case *networking.Ingress:
		return networkingvalidation.ValidateIngressCreate(object)
	case *networking.NetworkPolicy:
		return networkingvalidation.ValidateNetworkPolicy(object, networkingvalidation.NetworkPolicyValidationOptions{})
	case *policy.PodDisruptionBudget:
		return policyvalidation.ValidatePodDisruptionBudget(object, policyvalidation.PodDisruptionBudgetValidationOptions{})
	case *rbac.Role:
		return rbacvalidation.ValidateRole(object)
	case *rbac.RoleBinding:
		return rbacvalidation.ValidateRoleBinding(object)
	case *scheduling.PriorityClass:
		return schedulingvalidation.ValidatePriorityClass(object)
	}
	return field.ErrorList{field.NotSupported(field.NewPath("kind"), fmt.Sprintf("%T", object), []string{"see validate() in k8s/validate/main.go"})}
}

// Certificates: one authority per simulator, and leaf certificates that are right, or wrong in a given way.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"strings"
	"time"
)

type authority struct {
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	leaves map[string]tls.Certificate // by what was asked for: a reset changes no certificate
}

// openAuthority is the one of the vCenter before a reset.
func openAuthority(left *seat) (*authority, error) {
	pair, err := left.Authority.open()
	if err != nil {
		return nil, err
	}
	a := &authority{key: pair.PrivateKey.(*ecdsa.PrivateKey), leaves: map[string]tls.Certificate{}}
	if a.cert, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
		return nil, err
	}
	for name, leaf := range left.Leaves {
		if a.leaves[name], err = leaf.open(); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func newAuthority(file string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "wavelift vCenter simulator CA", Organization: []string{"wavelift simulator"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{cert: cert, key: key, leaves: map[string]tls.Certificate{}}, os.WriteFile(file, pemOf(der), 0o644)
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err)
	}
	return n
}

func pemOf(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// leaf makes a server certificate: ca | self_signed | expired | wrong_name.
func (a *authority) leaf(kind string, names ...string) (tls.Certificate, error) {
	known := leafName(kind, names)
	if made, ok := a.leaves[known]; ok {
		return made, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial(), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 3, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	issuer, signer := a.cert, a.key
	switch kind {
	case "", "ca":
	case "self_signed":
		issuer, signer = template, key
	case "expired":
		template.NotBefore, template.NotAfter = time.Now().AddDate(-2, 0, 0), time.Now().AddDate(0, 0, -1)
	case "wrong_name":
		names = []string{"another.host.example"}
	default:
		return tls.Certificate{}, fmt.Errorf("unknown kind of certificate %q: ca, self_signed, expired or wrong_name", kind)
	}
	template.Subject = pkix.Name{CommonName: names[0], Organization: []string{"wavelift simulator"}}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, &key.PublicKey, signer)
	if err != nil {
		return tls.Certificate{}, err
	}
	a.leaves[known] = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return a.leaves[known], nil
}

// thumbprint is the SHA-1 that vSphere shows, as AA:BB:...
func thumbprint(c tls.Certificate) string {
	sum := sha1.Sum(c.Certificate[0])
	parts := make([]string, len(sum))
	for i, b := range sum {
		parts[i] = fmt.Sprintf("%02X", b)
	}
	return strings.Join(parts, ":")
}

func tlsConfig(c tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{c}, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12}
}
